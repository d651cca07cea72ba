"""Streams, replies, tool loops and agents for coroutines."""

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
    ReplyDone,
    StreamInterrupted,
    TextDelta,
    WorkersClosed,
    WorkersExhausted,
    tool,
)
from asimov_sync.aio import to_async
from asimov_sync.testing import Fault, ModelServer, ScriptedInferenceClient, calls

from ..tiers import suite
from .running import awaited, until, waiting_threads

WORDS = "one two three four five six seven eight"


@pytest.fixture
def holding():
    """A server that sends half of each reply and waits then, for the event that a test sets, or for its client to leave."""
    go_on = threading.Event()

    def before_event(request, number):
        return go_on if number >= 6 else None

    with ModelServer(lambda body: WORDS, api_key="key", before_event=before_event) as server:
        server.go_on = go_on
        yield server
        go_on.set()


def client_of(server, api_key="key", **options):
    return AnthropicInferenceClient(model="m", api_key=api_key, api_url=server.url, max_retries=0, **options)


@pytest.fixture
def server():
    with ModelServer(lambda body: WORDS, api_key="key") as made:
        yield made


@awaited
async def test_the_three_ways_to_open(server):
    """Awaited, entered or iterated over, a stream is the same: its events, its text, its reply."""
    async with to_async(client_of(server)) as client:
        stream = await client.stream("go")
        assert [event.type async for event in stream][-1] == "reply_done"
        assert stream.reply.text == WORDS
        async with client.stream("go") as stream:
            assert "".join([text async for text in stream.text_stream]) == WORDS
        assert "".join([event.text async for event in client.stream("go") if isinstance(event, TextDelta)]) == WORDS
        assert (await client.generate("go")).text == WORDS
        assert client.usage == server.usage
        assert await client.count_tokens("go") > 0
        await until(lambda: not client._threads._lanes.open)


@awaited
async def test_nothing_is_sent_before_it_is_opened(server):
    """A stream that nobody awaits asks nothing; what is asked of it is an error that says how to open it."""
    async with to_async(client_of(server)) as client:
        stream = client.stream("go")
        with pytest.raises(AsimovError, match="await it"):
            stream.reply  # noqa: B018
        await stream.close()
        with pytest.raises(Cancelled, match="closed"):
            await stream.__anext__()
    assert server.requests == []


@awaited
async def test_a_refusal_is_raised_where_it_is_awaited(server):
    """A 401 is raised by the await, and not in the middle of an iteration; the thread is free again."""
    async with to_async(client_of(server, api_key="wrong"), max_threads=1) as client:
        for _ in range(2):
            with pytest.raises(AuthenticationError):
                await client.stream("go")
            await until(lambda: not client._threads._lanes.open)


@awaited
async def test_a_cut_is_no_end():
    """A stream that is cut raises StreamInterrupted with what had come, and gives its thread back."""
    with ModelServer([Fault("one two three", cut_at=700)]) as cutting:
        async with to_async(client_of(cutting)) as client:
            stream = await client.stream("go")
            with pytest.raises(StreamInterrupted) as caught:
                async for _ in stream:
                    pass
            assert "one two three".startswith(caught.value.partial.text)
            assert cutting.requests[0].faults == ["cut_at=700"]
            await until(lambda: not client._threads._lanes.open)


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


async def drop(stream):
    await stream.__anext__()


async def leave(stream):
    async with stream:
        await stream.__anext__()


@pytest.mark.parametrize("how", [break_out, raise_out, text_alone, close, drop, leave], ids=lambda one: one.__name__)
@awaited
async def test_a_stream_that_is_left_early(holding, how):
    """However a stream is left before its end, its request ends on the server, and its thread here."""
    async with to_async(client_of(holding)) as client:
        stream = await client.stream("go")
        await how(stream)
        if how is drop:
            del stream
            gc.collect()
        await until(lambda: holding.requests[0].disconnected.is_set(), "the end of the request")
        await until(lambda: not client._threads._lanes.open, "the end of the thread")
        if how is not drop:
            with pytest.raises(Cancelled):
                await stream.__anext__()


@pytest.mark.parametrize("what", ["next", "generate", "run_tools"])
@awaited
async def test_a_coroutine_that_is_cancelled(holding, what):
    """Cancelling a coroutine ends the request beneath it, wherever it waits."""
    async with to_async(client_of(holding)) as client:
        if what == "next":
            stream = await client.stream("go")

            async def work():
                async for _ in stream:
                    pass

        elif what == "generate":

            async def work():
                await client.generate("go")

        else:

            async def work():
                await client.run_tools("go", tools=[])

        task = asyncio.ensure_future(work())
        await until(lambda: holding.requests)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: holding.requests[0].disconnected.is_set(), "the end of the request")
        await until(lambda: not client._threads._lanes.open, "the end of the thread")


@awaited
async def test_a_coroutine_that_is_cancelled_while_it_opens_a_stream():
    """Before the headers, too: the request ends, and so does its thread."""
    with ModelServer([Fault(WORDS, stall="headers")]) as stalling:
        async with to_async(client_of(stalling)) as client:
            task = asyncio.ensure_future(client.stream("go")._opened())
            await until(lambda: stalling.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: stalling.requests[0].disconnected.is_set(), "the end of the request")
            assert stalling.requests[0].faults == ["stall=headers"]
            await until(lambda: not client._threads._lanes.open, "the end of the thread")


@awaited
async def test_read_on_later(server):
    """Events can be asked for one by one; after the last one it is the end of an iteration."""
    async with to_async(client_of(server)) as client:
        stream = await client.stream("go")
        events = []
        while not events or not isinstance(events[-1], ReplyDone):
            events.append(await stream.__anext__())
        assert stream.reply.text == WORDS
        await until(lambda: not client._threads._lanes.open)  # the last event was read, so its thread may go
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        await stream.close()


@awaited
async def test_a_look_at_a_stream_is_no_iteration(server):
    """Whoever asks for an iterator and does not use it, as a debugger does, closes nothing."""
    async with to_async(client_of(server)) as client:
        stream = await client.stream("go")
        assert stream.text_stream is not stream.__aiter__()
        gc.collect()
        assert await read_text(stream) == WORDS


@awaited
async def test_two_readers_of_one_stream(holding):
    """A second coroutine that reads at the same moment is an error, and the first goes on."""
    async with to_async(client_of(holding)) as client:
        stream = await client.stream("go")
        text = asyncio.ensure_future(read_text(stream))
        await until(lambda: stream._busy)
        with pytest.raises(RuntimeError, match="two coroutines"):
            await stream.__anext__()
        holding.go_on.set()
        assert await text == WORDS


async def read_text(stream):
    return "".join([text async for text in stream.text_stream])


@awaited
async def test_one_stream_too_many(holding):
    """More streams than threads are an error at once; one that is closed makes room for another."""
    async with to_async(client_of(holding), max_threads=2) as client:
        first, second = await client.stream("go"), await client.stream("go")
        with pytest.raises(WorkersExhausted):
            await client.stream("go")
        await first.close()
        third = await client.stream("go")
        await asyncio.gather(second.close(), third.close())


@suite
@awaited
async def test_closing_the_client_ends_its_streams(holding):
    """close() ends what goes on: whoever reads is told, and no thread is left."""
    client = to_async(client_of(holding))
    stream = await client.stream("go")
    reader = asyncio.ensure_future(read_text(stream))
    await until(lambda: stream._busy)
    await client.close()
    with pytest.raises(Cancelled):
        await reader
    await until(lambda: waiting_threads() == 0)


@awaited
async def test_a_token_ends_a_stream(holding):
    """A cancellation that was given, or that was current when the stream was opened, ends it."""
    async with to_async(client_of(holding)) as client:
        given = Cancellation()
        stream = await client.stream("go", cancellation=given)
        reader = asyncio.ensure_future(read_text(stream))
        await until(lambda: stream._busy)
        given.cancel("given")
        with pytest.raises(Cancelled, match="given"):
            await reader
        with Cancellation(timeout=0.2):
            stream = await client.stream("go")
        with pytest.raises(Cancelled, match="deadline"):
            await read_text(stream)


variable = contextvars.ContextVar("variable", default="not set")


@awaited
async def test_one_stream_has_one_context():
    """The steps of a stream share one context, a copy of that in which it was opened: what one sets, the next one sees."""
    seen = []

    def model(body):
        seen.append((variable.get(), threading.get_ident()))
        variable.set("set by request {}".format(len(seen)))
        return "done" if len(body["messages"]) > 1 else calls(("look", {}))

    @tool
    def look() -> str:
        """Look."""
        return variable.get()

    client = to_async(ScriptedInferenceClient(model))
    variable.set("by the coroutine")
    stream = await client.stream_tools("go", tools=[look], max_workers=0)
    variable.set("changed since")
    async for _ in stream:
        pass
    assert [value for value, _ in seen] == ["by the coroutine", "set by request 1"]
    assert stream.run.calls[0].result == "set by request 1"
    assert len({thread for _, thread in seen}) == 1
    assert variable.get() == "changed since"
    await client.close()


@awaited
async def test_an_agent():
    """An agent's answer is awaited, its events are iterated over, and its tools are functions on threads."""

    @tool
    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        assert threading.current_thread() is not threading.main_thread()
        return "sunny in " + city

    def model(body):
        return "It is sunny." if len(body["messages"]) > 1 else calls(("get_weather", {"city": "Rome"}))

    agent = to_async(Agent(ScriptedInferenceClient(model), tools=[get_weather]))
    run = await agent.run("How is it?")
    assert (run.text, run.calls[0].result) == ("It is sunny.", "sunny in Rome")
    stream = await agent.stream("How is it?")
    types = [event.type async for event in stream]
    assert types[-1] == "tool_run_done" and "tool_finished" in types
    assert stream.run.text == "It is sunny."


@awaited
async def test_threads_that_cannot_be_had(server, monkeypatch):
    """Where no thread can be started, whoever waits has an error, and not for ever."""

    def no_thread(*args):
        raise WorkersClosed("no worker thread could be started: can't start new thread")

    async with to_async(client_of(server)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(client._threads._long, "submit", no_thread)
            for _ in range(2):
                with pytest.raises(WorkersClosed, match="can't start new thread"):
                    await client.generate("go")
        assert (await client.generate("go")).text == WORDS
