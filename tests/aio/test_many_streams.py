"""Two hundred streams at once on one event loop, a third of them cancelled half-way."""

import asyncio
import gc
import threading
import time

from asimov_sync import AnthropicInferenceClient
from asimov_sync.aio import to_async

from ..tiers import by_tier, suite, within
from ..waiting import wait_for
from .model_server import ServerProcess

pytestmark = suite

STREAMS = by_tier(100, soak=200)
WORDS = 30
TICK = 0.005
MAX_DELAY = within(0.05)
ROUNDS = 30


def facade_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("asimov-aio")]


async def measure_delays(delays):
    """Measure how late this coroutine gets its turns; append the seconds to `delays`."""
    while True:
        start = time.perf_counter()
        await asyncio.sleep(TICK)
        delays.append(time.perf_counter() - start - TICK)


async def read(client, number, half_way):
    """Read one stream and return its text. `half_way` is called when half of the words have
    arrived.
    """
    text, pieces = "", 0
    stop = ", and stop half-way" if number % 3 == 0 else ""
    question = f"for {WORDS} words{stop}"
    async with client.stream(question) as stream:
        async for piece in stream.text_stream:
            text += piece
            pieces += 1
            if pieces == WORDS // 2:
                half_way(number)
                await asyncio.sleep(0)  # raises CancelledError if the task was cancelled
        assert stream.reply.text == text
    return text


async def read_streams(client):
    """Read all streams at once; return their results and the longest delay of the loop."""
    delays = []
    timer = asyncio.ensure_future(measure_delays(delays))
    tasks = []

    def half_way(number):
        if number % 3 == 0:
            tasks[number].cancel()

    tasks += [asyncio.ensure_future(read(client, number, half_way)) for number in range(STREAMS)]
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 100)
    timer.cancel()
    assert len(delays) > 20
    return results, max(delays)


def test_two_hundred_streams():
    """Cancelled streams end, the others are complete, and the loop is never blocked for long.

    After close() no thread and no connection is left.
    """
    longest = []

    async def main(url):
        async with to_async(
            AnthropicInferenceClient(model="m", api_key="key", api_url=url, max_retries=0)
        ) as client:
            await client.generate("for 1 words")  # loads modules, outside of the measurement
            # Other processes delay the loop as well, so one undisturbed round is enough.
            while len(longest) < ROUNDS and (not longest or min(longest) >= MAX_DELAY):
                results, delay = await read_streams(client)
                longest.append(delay)
                for number, result in enumerate(results):
                    if number % 3 == 0:
                        assert isinstance(result, asyncio.CancelledError), result
                    else:
                        assert result == "word " * WORDS

    # A full garbage collection of everything pytest has loaded would delay the loop.
    gc.collect()
    gc.freeze()
    with ServerProcess() as server:
        try:
            asyncio.run(main(server.url))
        finally:
            gc.unfreeze()
        cut = len(longest) * len(range(0, STREAMS, 3))
        expected = len(longest) * STREAMS + 1
        wait_for(
            lambda: server.read_counts()[1:] == (expected - cut, cut), "the end of every request"
        )
        assert server.read_counts()[0] == expected
        wait_for(lambda: not facade_threads(), "the end of the facade's threads")
    assert min(longest) < MAX_DELAY, longest
