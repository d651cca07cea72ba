"""Replies, streams, tool loops and agents for coroutines."""

import asyncio
import contextvars
import gc
import threading

import pytest

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    AsimovError,
    AuthenticationError,
    Cancellation,
    Cancelled,
    ClosedError,
    ReplyDone,
    StreamInterrupted,
    TextDelta,
    WorkersExhausted,
    tool,
)
from asimov_sync.aio import to_async
from asimov_sync.testing import Fault, ModelServer, ScriptedInferenceClient, calls, count_threads

from ..tiers import suite
from .coroutines import async_test, wait_until, waiting_threads

WORDS = "one two three four five six seven eight"
HELD_EVENT = 6
WORDS_BEFORE_HOLD = HELD_EVENT - 3  # three events precede the first word


@pytest.fixture
def holding_server():
    """A server that stops half-way through each reply, until the test sets `go_on` or the client
    leaves.
    """
    release = threading.Event()

    def before_event(request, number):
        return release if number >= HELD_EVENT else None

    with ModelServer(lambda body: WORDS, api_key="key", before_event=before_event) as server:
        server.release = release
        yield server
        release.set()


def client_of(server, api_key="key", **options):
    return AnthropicInferenceClient(
        model="m", api_key=api_key, api_url=server.url, max_retries=0, **options
    )


@pytest.fixture
def server():
    with ModelServer(lambda body: WORDS, api_key="key") as model_server:
        yield model_server


@async_test
async def test_three_ways_to_open_a_stream(server):
    """A stream can be awaited, entered or iterated over, with the same events, text and reply."""
    async with to_async(client_of(server)) as client:
        stream = await client.stream("go")
        assert [event.type async for event in stream][-1] == "reply_done"
        assert stream.reply.text == WORDS
        async with client.stream("go") as stream:
            assert "".join([text async for text in stream.text_stream]) == WORDS
        assert (
            "".join(
                [event.text async for event in client.stream("go") if isinstance(event, TextDelta)]
            )
            == WORDS
        )
        assert (await client.generate("go")).text == WORDS
        assert client.usage == server.usage
        assert await client.count_tokens("go") > 0
        await wait_until(lambda: not count_threads(client))


@async_test
async def test_unopened_stream_sends_nothing(server):
    """A stream that is not opened sends no request; its attributes raise an error that says how to
    open it.
    """
    async with to_async(client_of(server)) as client:
        stream = client.stream("go")
        with pytest.raises(AsimovError, match="await it"):
            stream.reply  # noqa: B018
        await stream.close()
        with pytest.raises(Cancelled, match="closed"):
            await stream.__anext__()
    assert server.requests == []


@async_test
async def test_rejected_request(server):
    """Awaiting a stream raises the error of its request, and frees the thread."""
    async with to_async(client_of(server, api_key="wrong"), max_threads=1) as client:
        for _ in range(2):
            with pytest.raises(AuthenticationError):
                await client.stream("go")
            await wait_until(lambda: not count_threads(client))


@async_test
async def test_interrupted_stream():
    """A broken connection raises StreamInterrupted with the partial reply, and frees the thread."""
    with ModelServer([Fault("one two three", cut_at=700)]) as cutting:
        async with to_async(client_of(cutting)) as client:
            stream = await client.stream("go")
            with pytest.raises(StreamInterrupted) as caught:
                async for _ in stream:
                    pass
            assert "one two three".startswith(caught.value.partial.text)
            assert cutting.requests[0].faults == ["cut_at=700"]
            await wait_until(lambda: not count_threads(client))


async def break_out(stream):
    async for event in stream:
        if isinstance(event, TextDelta):
            break


async def raise_out(stream):
    with pytest.raises(LookupError):
        async for event in stream:
            if isinstance(event, TextDelta):
                raise LookupError()


async def text_alone(stream):
    async for _ in stream.text_stream:
        break


async def close(stream):
    await stream.__anext__()
    await stream.close()


async def lose(stream):
    await stream.__anext__()


async def exit_block(stream):
    async with stream:
        await stream.__anext__()


@pytest.mark.parametrize(
    "way", [break_out, raise_out, text_alone, close, lose, exit_block], ids=lambda one: one.__name__
)
@async_test
async def test_abandoned_stream(holding_server, way):
    """However a stream is left early, its request and its thread end."""
    async with to_async(client_of(holding_server)) as client:
        stream = await client.stream("go")
        await way(stream)
        if way is lose:
            del stream
            gc.collect()
        await wait_until(
            lambda: holding_server.requests[0].disconnected.is_set(), "the end of the request"
        )
        await wait_until(lambda: not count_threads(client), "the end of the thread")
        if way is not lose:
            with pytest.raises(Cancelled):
                await stream.__anext__()


@pytest.mark.parametrize("phase", ["next", "generate", "run_tools"])
@async_test
async def test_cancelled_coroutine(holding_server, phase):
    """Cancelling a coroutine ends its request."""
    async with to_async(client_of(holding_server)) as client:
        if phase == "next":
            stream = await client.stream("go")

            async def work():
                async for _ in stream:
                    pass

        elif phase == "generate":

            async def work():
                await client.generate("go")

        else:

            async def work():
                await client.run_tools("go", tools=[])

        task = asyncio.ensure_future(work())
        await wait_until(lambda: holding_server.requests)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(
            lambda: holding_server.requests[0].disconnected.is_set(), "the end of the request"
        )
        await wait_until(lambda: not count_threads(client), "the end of the thread")


async def open_stream(client):
    return await client.stream("go")


@async_test
async def test_cancelled_while_opening():
    """Cancelling a coroutine that waits for the response headers ends the request and the
    thread.
    """
    with ModelServer([Fault(WORDS, stall="headers")]) as stalling:
        async with to_async(client_of(stalling)) as client:
            task = asyncio.ensure_future(open_stream(client))
            await wait_until(lambda: stalling.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await wait_until(
                lambda: stalling.requests[0].disconnected.is_set(), "the end of the request"
            )
            assert stalling.requests[0].faults == ["stall=headers"]
            await wait_until(lambda: not count_threads(client), "the end of the thread")


@async_test
async def test_single_events(server):
    """Events can be requested one by one; after the last one the iteration ends."""
    async with to_async(client_of(server)) as client:
        stream = await client.stream("go")
        events = []
        while not events or not isinstance(events[-1], ReplyDone):
            events.append(await stream.__anext__())
        assert stream.reply.text == WORDS
        # The thread ends once the last event was read.
        await wait_until(lambda: not count_threads(client))
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        await stream.close()


@async_test
async def test_unused_iterator(server):
    """An iterator that is created but not used, as by a debugger, closes nothing."""
    async with to_async(client_of(server)) as client:
        stream = await client.stream("go")
        assert stream.text_stream is not stream.__aiter__()
        gc.collect()
        assert await read_text(stream) == WORDS


@async_test
async def test_two_readers_of_one_stream(holding_server):
    """A second reader raises an error, and the first one continues."""
    async with to_async(client_of(holding_server)) as client:
        stream = await client.stream("go")
        text = await start_reader(stream)
        with pytest.raises(RuntimeError, match="two coroutines"):
            await stream.__anext__()
        holding_server.release.set()
        assert await text == WORDS


async def read_text(stream, received=None):
    """Return the text of a stream. `received` receives each piece."""
    received = [] if received is None else received
    async for text in stream.text_stream:
        received.append(text)
    return "".join(received)


async def start_reader(stream):
    """Return a task that reads the text of a stream of `holding_server`, and waits for more."""
    received = []
    reader = asyncio.ensure_future(read_text(stream, received))
    await wait_until(lambda: len(received) == WORDS_BEFORE_HOLD, "the words before the hold")
    return reader


@async_test
async def test_too_many_streams(holding_server):
    """More streams than threads raise an error at once; closing a stream frees its thread."""
    async with to_async(client_of(holding_server), max_threads=2) as client:
        first, second = await client.stream("go"), await client.stream("go")
        with pytest.raises(WorkersExhausted):
            await client.stream("go")
        await first.close()
        third = await client.stream("go")
        await asyncio.gather(second.close(), third.close())


@suite
@async_test
async def test_closing_the_client_ends_its_streams(holding_server):
    """close() ends the streams with Cancelled and leaves no thread."""
    client = to_async(client_of(holding_server))
    reader = await start_reader(await client.stream("go"))
    await client.close()
    with pytest.raises(Cancelled):
        await reader
    await wait_until(lambda: waiting_threads() == 0)


@async_test
async def test_a_token_ends_a_stream(holding_server):
    """A given token, and the token that is current when the stream opens, both end it."""
    async with to_async(client_of(holding_server)) as client:
        token = Cancellation()
        reader = await start_reader(await client.stream("go", cancellation=token))
        token.cancel("given")
        with pytest.raises(Cancelled, match="given"):
            await reader
        with Cancellation(timeout=0.2):
            stream = await client.stream("go")
        with pytest.raises(Cancelled, match="deadline"):
            await read_text(stream)


variable = contextvars.ContextVar("variable", default="not set")


@async_test
async def test_one_stream_has_one_context():
    """The steps of a stream share one context, a copy of the context in which it was opened."""
    seen = []

    def model(body):
        seen.append((variable.get(), threading.get_ident()))
        variable.set(f"set by request {len(seen)}")
        return "done" if len(body["messages"]) > 1 else calls(("find", {}))

    @tool
    def find() -> str:
        """Look."""
        return variable.get()

    client = to_async(ScriptedInferenceClient(model))
    variable.set("by the coroutine")
    stream = await client.stream_tools("go", tools=[find], max_workers=0)
    variable.set("changed since")
    async for _ in stream:
        pass
    assert [value for value, _ in seen] == ["by the coroutine", "set by request 1"]
    assert stream.run.calls[0].result == "set by request 1"
    assert len({thread for _, thread in seen}) == 1
    assert variable.get() == "changed since"
    await client.close()


@async_test
async def test_agent():
    """An agent's answer is awaited, its events are iterated over, and its tools run on threads."""

    @tool
    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        assert threading.current_thread() is not threading.main_thread()
        return "sunny in " + city

    def model(body):
        return (
            "It is sunny."
            if len(body["messages"]) > 1
            else calls(("get_weather", {"city": "Rome"}))
        )

    agent = to_async(Agent(ScriptedInferenceClient(model), tools=[get_weather]))
    run = await agent.run("How is it?")
    assert (run.text, run.calls[0].result) == ("It is sunny.", "sunny in Rome")
    stream = await agent.stream("How is it?")
    types = [event.type async for event in stream]
    assert types[-1] == "tool_run_done" and "tool_finished" in types
    assert stream.run.text == "It is sunny."


@async_test
async def test_close_agent():
    """The end of the block ends the calls of an agent's facade; the agent itself stays open."""
    started = threading.Event()

    @tool
    def wait() -> str:
        """Wait."""
        started.set()
        Cancellation.current().wait(20)
        return ""

    sync = Agent(ScriptedInferenceClient([calls(("wait", {})), "still here"]), tools=[wait])
    async with to_async(sync) as agent:
        running = asyncio.ensure_future(agent.run("x"))
        while not started.is_set():
            await asyncio.sleep(0.005)
    with pytest.raises(Cancelled, match="closed"):
        await running
    with pytest.raises(ClosedError):
        await agent.run("x")
    assert sync.run("x").text == "still here"


@async_test
async def test_no_thread_available(server, monkeypatch):
    """If no thread can be started, the call raises an error."""

    start = threading.Thread.start

    def no_thread(thread):
        if thread.name == "asimov-aio-wait":
            raise RuntimeError("can't start new thread")
        start(thread)

    async with to_async(client_of(server)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            for _ in range(2):
                with pytest.raises(ClosedError, match="can't start new thread"):
                    await client.generate("go")
        assert (await client.generate("go")).text == WORDS


@async_test
async def test_aclosing(holding_server):
    """`aclose` is `close`, for contextlib.aclosing: the request ends, and with it the thread."""
    facade = to_async(client_of(holding_server))
    stream = await facade.stream("hello")
    await stream.__anext__()
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(Cancelled, match="closed"):
        await stream.__anext__()
    await wait_until(
        lambda: holding_server.requests[-1].disconnected.is_set(), "the end of the request"
    )
    await facade.close()
