"""Bodies for ASGI: of async events, and of blocking ones that a thread reads."""

import asyncio
import threading

import pytest

from asimov_sync import Agent, AnthropicInferenceClient, AuthenticationError, TextDelta
from asimov_sync.aio import to_async
from asimov_sync.testing import ModelServer, count_threads
from asimov_sync.web import AsyncBody, sse, ui_message_stream

from ..aio.coroutines import async_test, wait_until
from ..tiers import suite
from ..waiting import DEADLINE, wait_for
from .referees import read_frames, read_ui_message


@pytest.fixture(autouse=True)
def no_thread_left():
    """Fail a test that leaves a thread behind."""
    yield
    wait_for(lambda: "asimov-web" not in [thread.name for thread in threading.enumerate()])


async def read(body):
    return b"".join([chunk async for chunk in body])


@async_test
async def test_an_async_agent(agent):
    """The chunks are those of the blocking agent."""
    async with to_async(agent) as asynchronous:
        body = ui_message_stream(await asynchronous.stream("clean up"))
        assert isinstance(body, AsyncBody)
        message, chunks = read_ui_message(await read(body))
    assert message[-1]["state"] == "approval-requested"
    assert count_threads(asynchronous) == 0


@async_test
async def test_blocking_events_for_asgi(agent):
    """`as_async` reads the events of a blocking stream on a thread."""
    message, _ = read_ui_message(await read(ui_message_stream(agent.stream("x")).as_async()))
    assert message[-1]["state"] == "approval-requested"


@async_test
async def test_without_keep_alive(agent):
    """Without comments, blocking events are still read on a thread under ASGI."""
    message, _ = read_ui_message(
        await read(ui_message_stream(agent.stream("x"), keep_alive=None).as_async())
    )
    assert message[-1]["state"] == "approval-requested"


@pytest.fixture
def silent_server():
    """A server whose model is silent until its client leaves."""
    silent = threading.Event()
    with ModelServer(["a long answer"], before_event=lambda *_: silent, api_key="key") as server:
        yield server
        silent.set()


def agent_of(server, key="key"):
    return Agent(AnthropicInferenceClient(model="m", api_key=key, api_url=server.url))


@suite
@pytest.mark.parametrize("blocking", [True, False], ids=["thread", "task"])
@pytest.mark.parametrize("how", ["close", "aclose", "cancel", "lose"])
@async_test
async def test_a_client_that_leaves_during_a_silence(blocking, how, silent_server):
    """Closing, cancelling or losing the body closes the provider's stream."""
    agent = agent_of(silent_server)
    if blocking:
        body = sse(agent.stream("hi"), keep_alive=0.01).as_async()
    else:
        body = sse(await to_async(agent).stream("hi"), keep_alive=0.01)
    assert [await body.__anext__() for _ in range(2)] == [b": open\n\n", b": keep-alive\n\n"]
    if how == "cancel":
        response = asyncio.ensure_future(read(body))
        await asyncio.sleep(0)
        response.cancel()
        with pytest.raises(asyncio.CancelledError):
            await response
    elif how == "aclose":
        await body.aclose()
    elif how == "close":  # frameworks do that on another thread
        await asyncio.get_running_loop().run_in_executor(None, body.close)
    del body
    gone = silent_server.requests[0].disconnected
    await wait_until(gone.is_set, "the end of the provider's stream")


@async_test
async def test_an_error_of_the_first_request_is_raised_by_the_view(silent_server):
    """Awaiting the stream raises the error before the response."""
    with pytest.raises(AuthenticationError):
        await to_async(agent_of(silent_server, "wrong")).stream("hi")


@async_test
async def test_an_async_generator():
    """An async generator is read in one task, and closed in it. Its error is an event."""
    tasks = []

    async def events():
        tasks.append(asyncio.current_task())
        try:
            for number in range(200):
                yield TextDelta(str(number))
            raise ValueError("hunter2")
        finally:
            tasks.append(asyncio.current_task())

    frames = read_frames(await read(sse(events())))
    assert len(frames) == 201 and frames[-1] == '{"type":"error","error":"ValueError"}'
    assert len(set(tasks)) == 1 and len(tasks) == 2


@async_test
async def test_an_async_generator_of_a_client_that_leaves():
    """Closing the body cancels what an async generator awaits."""
    left = asyncio.Event()

    async def events():
        try:
            await asyncio.sleep(DEADLINE)
            yield TextDelta("never")
        finally:
            left.set()

    body = sse(events(), keep_alive=0.01)
    await body.__anext__()
    await body.__anext__()
    await body.aclose()
    await asyncio.wait_for(left.wait(), DEADLINE)
    assert await read(body) == b""


@async_test
async def test_events_are_read_ahead_only_a_little():
    """A browser that reads nothing holds an async iterator back."""
    taken = []

    async def events():
        for number in range(1000):
            taken.append(number)
            yield TextDelta(str(number))

    body = sse(events())
    await body.__anext__()
    await wait_until(lambda: len(taken) >= 64)
    await asyncio.sleep(0)
    assert len(taken) == 64
    assert len(read_frames(await read(body))) == 1000


@async_test
async def test_the_end_of_the_events_is_awaited(agent):
    """`on_end` may be a coroutine function."""
    stream, runs = await to_async(agent).stream("x"), []

    async def keep():
        runs.append(stream.run)

    await read(sse(stream, on_end=keep))
    assert [run.stop_reason for run in runs] == ["approval"]
