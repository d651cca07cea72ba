"""Bodies: comments during silence, the end of a stream that a browser has left, and no threads."""

import gc
import json
import random
import threading
import time
import weakref

import pytest
from tenacity import wait_none

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    Cancellation,
    MemoryCache,
    Retry,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
    TextDelta,
    ToolCall,
)
from asimov_sync.testing import ModelServer, ScriptedInferenceClient
from asimov_sync.web import ag_ui, read_last_event_id, sse, ui_message_stream

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, Background, wait_for
from .referees import read_frames


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "asimov-web"]


@pytest.fixture(autouse=True)
def no_thread_left():
    """Fail a test that leaves a thread behind."""
    yield
    wait_for(lambda: not threads(), "the end of the threads")


class Events:
    """Events that wait for `go`, and record that they were closed."""

    def __init__(self, *events):
        self._events = iter(events)
        self.go = threading.Event()
        self.closed = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        assert self.go.wait(DEADLINE)
        if self.closed.is_set():
            raise StopIteration
        return next(self._events)

    def close(self):
        self.closed.set()
        self.go.set()


def test_comments_while_no_event_arrives():
    """Comments are sent during a silence, and the events after it arrive whole."""
    events = Events(TextDelta("a"))
    body = sse(events, keep_alive=0.01)
    assert next(body) == b": open\n\n"
    assert [next(body), next(body)] == [b": keep-alive\n\n"] * 2
    events.go.set()
    rest = b"".join(body)
    assert rest.endswith(b'event: text_delta\ndata: {"type":"text_delta","text":"a"}\n\n')
    assert not events.closed.is_set()


def test_closing_ends_the_events_during_a_silence():
    """Closing the body closes the events, although a thread waits for the next one."""
    events = Events()
    body = sse(events)
    next(body)
    wait_for(threads, "the thread")
    body.close()
    assert events.closed.is_set()
    assert list(body) == []


def test_closing_cancels_what_a_generator_waits_for():
    """A generator of the caller is closed by its own thread, under a token that ends its waits."""
    entered, left = threading.Event(), []

    def events():
        try:
            entered.set()
            Cancellation.current().wait(DEADLINE)
            Cancellation.current().raise_if_cancelled()
            yield TextDelta("never")
        finally:
            left.append(threading.current_thread().name)

    body = sse(events())
    next(body)
    assert entered.wait(DEADLINE)
    body.close()
    wait_for(lambda: left, "the end of the generator")
    assert left == ["asimov-web"]


def test_a_body_that_is_never_read_starts_nothing():
    """Closing it, for a HEAD request, closes the events."""
    events = Events()
    sse(events).close()
    assert events.closed.is_set() and not threads()


def test_a_lost_body_closes_its_events():
    """The last reference to a body ends its thread."""
    events = Events()
    body = sse(events)
    next(body)
    lost = weakref.ref(body)
    del body
    gc.collect()
    assert lost() is None and events.closed.is_set()


def test_events_are_read_ahead_only_a_little():
    """A browser that reads nothing holds the events back."""
    taken = []

    def events():
        for number in range(1000):
            taken.append(number)
            yield TextDelta(str(number))

    with sse(events()) as body:
        next(body)
        wait_for(lambda: len(taken) >= 64, "the first events")
        count = len(taken)
        assert count <= 65
        rest = b"".join(body)
    assert [json.loads(one)["text"] for one in read_frames(rest)] == list(map(str, range(1000)))


def test_without_keep_alive_there_is_no_thread():
    """With keep_alive=None, the events are read on the thread of the response."""
    names = []

    def events():
        names.append(threading.current_thread().name)
        yield TextDelta("a")

    assert b"text_delta" in b"".join(sse(events(), keep_alive=None))
    assert names == [threading.current_thread().name]


@pytest.mark.parametrize("keep_alive", [0, -1, float("nan"), float("inf")])
def test_an_invalid_keep_alive_is_an_error(keep_alive):
    """The interval is a positive number of seconds."""
    with pytest.raises(ValueError, match="keep_alive="):
        sse([], keep_alive=keep_alive)


@pytest.mark.parametrize("encode", [sse, ui_message_stream])
def test_the_providers_stream_is_closed_during_a_silence(encode):
    """Closing the body while the model is silent closes the provider's stream."""
    silent = threading.Event()
    with ModelServer(["a long answer"], before_event=lambda request, number: silent) as server:
        client = AnthropicInferenceClient(model="m", api_key="key", api_url=server.url)
        body = encode(Agent(client).stream("hi"), keep_alive=0.01)
        assert [next(body), next(body)][1] == b": keep-alive\n\n"
        body.close()
        assert server.requests[0].disconnected.wait(DEADLINE)
        client.close()


def test_an_error_of_the_first_request_is_raised_by_the_view():
    """The stream is opened before the response, so a refused key can be its status."""
    with ModelServer(["x"], api_key="right") as server:
        client = AnthropicInferenceClient(model="m", api_key="wrong", api_url=server.url)
        with pytest.raises(Exception, match="x-api-key"):
            sse(Agent(client).stream("hi"))
        client.close()


def test_an_error_after_the_first_byte_is_an_event():
    """The last event of a stream that breaks is `error`, with the type of the exception."""

    def events():
        yield TextDelta("a")
        raise ValueError("hunter2")

    first, last = read_frames(b"".join(sse(events())))
    assert json.loads(last) == {"type": "error", "error": "ValueError"}
    assert "hunter2" in b"".join(sse(events(), show_errors=True)).decode()


# Server-sent events


@pytest.mark.parametrize("encode", [sse, ui_message_stream, ag_ui])
def test_the_messages_of_tools_and_tasks_are_withheld(encode):
    """The browser gets the types of the exceptions of tools and tasks; with show_errors=True also
    their messages, which may have a secret."""

    def look() -> str:
        """Look."""
        raise LookupError("hunter2")

    def answer(body):
        return "done" if len(body["messages"]) > 1 else [ToolCall(id="1", name="look")]

    def fail(task, context):
        raise LookupError("hunter2")

    agent = Agent(ScriptedInferenceClient(answer), tools=[look])
    graph = TaskGraph()
    graph.add(Task(type="fail"), name="fail", retry=Retry(attempts=2, wait=wait_none()))
    store = RunStore(MemoryCache())
    scheduler = TaskScheduler({"fail": fail}, runs=store)
    streams = [
        lambda: agent.stream("hi"),
        lambda: scheduler.stream(graph, run_id="r"),
        lambda: store.events("r"),
    ]
    for stream in streams:
        text = b"".join(encode(stream())).decode()
        assert "hunter2" not in text and "LookupError" in text
    assert "hunter2" in b"".join(encode(agent.stream("hi"), show_errors=True)).decode()


def test_hostile_text_stays_in_its_event():
    """Line breaks, control characters and lone surrogates in a text cannot end its event."""
    text = "a\r\ndata: b\n\nevent: c\u2028\x00\ud800</script>\u202e"
    (frame,) = read_frames(b"".join(sse([TextDelta(text)])))
    assert json.loads(frame)["text"] == text


def test_hostile_types_and_numbers_of_stored_events():
    """The type of a dict is a field only if it is a name."""
    body = b"".join(
        sse([{"type": "x\ndata: y", "sequence": "1\n2"}, {"type": "ok", "sequence": 7}])
    )
    assert body.count(b"\nevent: message\n") == 1 and b"id: 7\nevent: ok\n" in body
    assert b"id: 1" not in body


def test_a_long_text():
    """A text of megabytes is one event."""
    length = by_tier(1_000_000, 10_000_000)
    (frame,) = read_frames(b"".join(sse([TextDelta("x" * length)])))
    assert len(frame) > length


def test_the_end_of_a_tool_loop_repeats_nothing(agent):
    """`tool_run_done` has the calls that wait, and neither the history nor the other calls."""
    with agent.stream("clean up") as stream:
        frames = read_frames(b"".join(sse(stream)))
    run = json.loads(frames[-1])["run"]
    assert set(run) == {"reply", "usage", "iterations", "stop_reason", "pending", "parsed"}
    assert run["pending"][0]["id"] == "c"


@pytest.mark.parametrize(
    "value, number",
    [("12", 12), (" 7 ", 7), ("", None), (None, None), ("-1", None), ("1" * 19, None), ("٣", None)],
)
def test_last_event_id(value, number):
    """The header of a browser that reconnects is a number, or ignored."""
    assert read_last_event_id(value) == number


# The end


@pytest.mark.parametrize("keep_alive", [None, 2.0])
def test_the_end_of_the_events_is_reported(keep_alive, agent):
    """`on_end` is called once, after the last event, when the stream has its result."""
    stream, runs = agent.stream("clean up"), []
    body = b"".join(sse(stream, keep_alive=keep_alive, on_end=lambda: runs.append(stream.run)))
    assert [run.stop_reason for run in runs] == ["approval"] and b"tool_run_done" in body


def test_no_other_end_is_reported():
    """`on_end` is not called after an exception or a close, and its own exception is an event."""

    def failing():
        raise ValueError
        yield

    called = []
    list(sse(failing(), on_end=lambda: called.append(1)))
    events = Events()
    with sse(events, on_end=lambda: called.append(2)) as body:
        next(body)
    wait_for(lambda: not threads())
    assert called == []
    body = b"".join(sse([TextDelta("a")], on_end=lambda: 1 / 0))
    assert b"ZeroDivisionError" in body


@suite
def test_closing_at_any_moment():
    """Wherever a stream is when the server closes its body, the provider's stream is closed, and
    the thread ends."""
    generator = random.Random(7)
    before = {"delay": 0.0}
    rounds, cut = by_tier(15, 400), 0

    def wait(request, number):
        time.sleep(before["delay"])

    with ModelServer(lambda body: "one two three four five", before_event=wait) as server:
        client = AnthropicInferenceClient(model="m", api_key="key", api_url=server.url)
        agent = Agent(client)
        for number in range(rounds):
            before["delay"] = generator.choice([0.0, 0.001, 0.005])
            encode = generator.choice([sse, ui_message_stream, ag_ui])
            body = encode(agent.stream("hi"), keep_alive=0.002)
            for _ in range(generator.randrange(8)):
                next(body, None)
            closing = Background(body.close) if generator.random() < 0.5 else None
            if closing is None:
                body.close()
            else:
                list(body)  # a server may read while another thread closes
                closing.result()
            request = server.requests[number]
            assert request.finished.wait(DEADLINE)
            cut += request.disconnected.is_set()
            assert request.disconnected.is_set() or request.whole
        client.close()
    assert cut > rounds / 10
