"""Tool loops as streams of events, read to the end or closed early."""

import contextvars
import gc
import json
import threading

import pytest
from opentelemetry import context as otel_context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from asimov_sync import (
    AsimovError,
    AuthenticationError,
    Cancellation,
    Cancelled,
    ChatMessage,
    Reply,
    StreamInterrupted,
    TextDelta,
    ToolCall,
    Usage,
    tool,
)
from asimov_sync.inference.reply_events import EventSource
from asimov_sync.inference.stream import ReplyStream
from asimov_sync.testing import Failure, ScriptedInferenceClient, calls, tool_results
from asimov_sync.usage import UsageCounter

from ..tiers import suite
from ..waiting import Background, wait_for


def said_and_wanted(text, *wanted):
    """A reply that says something, and wants tools called."""
    made = calls(*wanted)
    blocks = [{"type": "text", "text": text}]
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in made
    ]
    return Reply(
        message=ChatMessage(role="assistant", content=blocks),
        stop_reason="tool_use",
        raw_stop_reason="tool_use",
        tool_calls=made,
        usage=Usage(input_tokens=7, output_tokens=3, requests=1),
    )


@tool
def weather(city: str) -> dict:
    """Tell the weather."""
    return {"city": city, "degrees": {"now": 21.5}}


@tool
def broken() -> None:
    """Always fail."""
    raise RuntimeError("it broke")


def script():
    return [
        said_and_wanted("Let me look.", ("weather", {"city": "Rome"}), ("broken", {})),
        said_and_wanted("Once more.", ("weather", {"city": "Oslo"})),
        "It is warm in Rome.",
    ]


class Page:
    """What a browser shows: everything it knows comes from lines of JSON."""

    def __init__(self):
        self.replies, self.tools, self.done = [""], {}, None

    def take(self, line):
        told = json.loads(line)
        kind = told["type"]
        if kind == "text_delta":
            self.replies[-1] += told["text"]
        elif kind == "tool_call_ready":
            self.tools[told["call"]["id"]] = [
                told["call"]["name"],
                told["call"]["arguments"],
                "ready",
            ]
        elif kind == "tool_started":
            self.tools[told["call"]["id"]][2] = "started"
        elif kind == "tool_finished":
            self.tools[told["call"]["id"]][2] = told["error"] or told["result"]
        elif kind == "reply_done":
            assert self.replies[-1] == "".join(
                block["text"]
                for block in told["reply"]["message"]["content"]
                if block["type"] == "text"
            )
            self.replies.append("")
        else:
            assert kind == "tool_run_done"
            self.done = told["run"]


def test_a_page_from_json_alone(serve):
    """The JSON of each event suffices to show text, calls and the end, and to continue."""
    client, server = serve(script())
    page, stream = Page(), client.stream_tools("How warm is it?", [weather, broken])
    for event in stream:
        page.take(json.dumps(event.to_dict(), allow_nan=False))
    assert page.replies == ["Let me look.", "Once more.", "It is warm in Rome.", ""]
    assert list(page.tools.values()) == [
        ["weather", {"city": "Rome"}, {"city": "Rome", "degrees": {"now": 21.5}}],
        ["broken", {}, "RuntimeError: it broke"],
        ["weather", {"city": "Oslo"}, {"city": "Oslo", "degrees": {"now": 21.5}}],
    ]
    run = stream.run
    assert (page.done["stop_reason"], page.done["iterations"]) == ("end_turn", 3)
    assert Usage.model_validate(page.done["usage"]) == run.usage
    assert Reply.model_validate(page.done["reply"]) == run.reply
    assert [ChatMessage.model_validate(one) for one in page.done["messages"]] == run.messages
    assert [ToolCall.model_validate(one["call"]) for one in page.done["calls"]] == [
        one.call for one in run.calls
    ]
    assert [one["exception"] for one in page.done["calls"]] == [
        None,
        "RuntimeError: it broke",
        None,
    ]


def test_the_order_of_events(serve):
    """Each call is ready, started, then finished before the next reply; the run is the last
    event.
    """
    client, server = serve(script())
    kinds = [event.type for event in client.stream_tools("x", [weather, broken], max_workers=1)]
    shown = [kind for kind in kinds if kind != "text_delta"]
    ready, made = ["tool_call_ready"], ["tool_started", "tool_finished"]
    first = 2 * ready + ["reply_done"] + 2 * made
    assert shown == first + ready + ["reply_done"] + made + ["reply_done", "tool_run_done"]
    assert kinds[-6:-2] == ["text_delta"] * 4


def test_the_same_as_run_tools():
    """A stream's run equals that of run_tools."""

    def model(body):
        return (
            "done"
            if tool_results(body)
            else [ToolCall(id="t", name="weather", arguments={"city": "x"})]
        )

    stream = ScriptedInferenceClient(model).stream_tools("x", [weather])
    assert list(stream)[-1].run is stream.run
    run = ScriptedInferenceClient(model).run_tools("x", [weather])
    assert (stream.run.messages, stream.run.usage, stream.run.text) == (
        run.messages,
        run.usage,
        run.text,
    )


def test_events_while_they_happen(serve):
    """Text arrives while the server holds the rest; a tool's start while it runs."""
    gates = {3: threading.Event()}
    client, server = serve(
        [said_and_wanted("one two", ("slow", {"number": 0}), ("slow", {"number": 1})), "done"],
        before_event=lambda request, number: gates.get(number) if request.number == 0 else None,
    )
    finish = [threading.Event(), threading.Event()]

    @tool
    def slow(number: int) -> int:
        assert finish[number].wait(20)
        return number

    with client.stream_tools("x", [slow]) as stream:
        waiting = Background(next, stream)
        wait_for(lambda: server.requests[0].sent == 3)
        gates[3].set()
        assert waiting.result().text == "one "
        events = iter(lambda: next(stream), None)
        started = [
            event for event in (next(events) for _ in range(6)) if event.type == "tool_started"
        ]
        assert len(started) == 2
        finish[1].set()
        assert next(events).call.arguments == {"number": 1}
        finish[0].set()
        assert next(events).call.arguments == {"number": 0}
        list(stream)
    assert [made.result for made in stream.run.calls] == [0, 1]


def test_the_text_alone(serve):
    """text_stream yields the text of all replies; .run is available afterwards."""
    client, server = serve(script())
    stream = client.stream_tools("x", [weather, broken])
    assert "".join(stream.text_stream) == "Let me look.Once more.It is warm in Rome."
    assert stream.run.text == "It is warm in Rome."


# Errors


def test_a_401_is_raised_by_the_call(serve):
    """An error of the first request is raised by stream_tools() itself."""
    client, server = serve(["never"])
    server.api_key = "another"
    with pytest.raises(AuthenticationError) as caught:
        client.stream_tools("x", [weather])
    assert (caught.value.status, [message.text for message in caught.value.messages]) == (
        401,
        ["x"],
    )


def test_invalid_arguments(serve):
    """So are an invalid limit and an approval of no call; nothing is sent."""
    client, server = serve(["never"])
    for wrong in ({"max_iterations": 0}, {"max_workers": -1}, {"approvals": {"nope": True}}):
        with pytest.raises(ValueError):
            client.stream_tools("x", [weather], **wrong)
    assert server.requests == []


def test_a_later_failure(serve):
    """The iteration raises the error of a later request, with the history so far."""
    client, server = serve(
        [calls(("weather", {"city": "Rome"})), Failure(401, "authentication_error")]
    )
    stream = client.stream_tools("x", [weather])
    with pytest.raises(AuthenticationError) as caught:
        list(stream)
    assert [message.role.value for message in caught.value.messages] == [
        "user",
        "assistant",
        "tool_result",
    ]
    with pytest.raises(AsimovError, match="only at the end"):
        stream.run  # noqa: B018
    with pytest.raises(Cancelled):
        next(stream)  # not a StopIteration: it did not end


def cut_once(place):
    """Breaks the first connection before an event."""

    def before(request, number):
        if request.number == 0 and number == place:
            raise OSError("the connection breaks")

    return before


@suite
def test_a_cut_before_the_first_word(serve):
    """A reply that breaks before its first event is requested again."""
    client, server = serve(["hello", "hello"], before_event=cut_once(2))
    stream = client.stream_tools("x", [])
    assert [event.text for event in stream if event.type == "text_delta"] == ["hello"]
    assert len(server.requests) == 2


def test_a_cut_after_the_first_word(serve):
    """A later break is a StreamInterrupted with the partial reply and the history."""
    client, server = serve(["hello there", "hello there"], before_event=cut_once(4))
    shown = []
    with pytest.raises(StreamInterrupted) as caught:
        for event in client.stream_tools("x", []):
            shown.append(event.text)
    assert ("".join(shown), caught.value.text) == ("hello ", "hello ")
    assert client.run_tools(caught.value.messages, []).text == "hello there"


# Stopping half-way


def held_after(place):
    """Holds every stream before an event until its client is gone."""
    return lambda request, number: threading.Event() if number == place else None


def test_closing_between_two_words(serve):
    """Closing a stream closes its connection at once; the next request opens another."""
    client, server = serve(lambda body: "hello there", before_event=held_after(4))
    with client.stream_tools("x", [weather]) as stream:
        assert next(stream).text == "hello "
    assert server.requests[0].disconnected.wait(20)
    server.before_event = None
    assert client.generate("x").text == "hello there"
    with pytest.raises(Cancelled, match="closed"):
        next(stream)
    stream.close()  # once more is no error


def slow_tool():
    """Return a tool that waits for its cancellation, with `.started` and the outcome, `.told`."""

    def slow() -> str:
        made.started.set()
        made.told.append(Cancellation.current().wait(20))
        return "late"

    made = tool(slow)
    made.started, made.told = threading.Event(), []
    return made


def test_closing_while_a_tool_works(serve):
    """Closing a stream cancels the running tools, and sends no further request."""
    slow = slow_tool()
    client, server = serve([calls(("slow", {})), "never"])
    with client.stream_tools("x", [slow]) as stream:
        while next(stream).type != "tool_started":
            pass
    wait_for(lambda: slow.told == [True])
    assert len(server.requests) == 1


@pytest.mark.parametrize("busy", ["with a reply", "with a tool"])
def test_closing_from_another_thread(serve, busy):
    """close() unblocks a reader that waits for text or for a tool."""
    slow = slow_tool()
    if busy == "with a reply":
        client, server = serve(["hello there"], before_event=held_after(4))
    else:
        client, server = serve([calls(("slow", {}))])
    stream = client.stream_tools("x", [slow])
    reading = Background(list, stream)
    if busy == "with a reply":
        wait_for(lambda: server.requests[0].sent == 4)
    else:
        assert slow.started.wait(20)
    stream.close()
    with pytest.raises(Cancelled, match="the stream was closed"):
        reading.result(5)
    if busy == "with a reply":
        assert server.requests[0].disconnected.wait(20)
    else:
        wait_for(lambda: slow.told == [True])


def test_reading_while_another_thread_closes():
    """A read during another thread's close() raises Cancelled."""
    closing, go_on = threading.Event(), threading.Event()

    class Slow(EventSource):
        def read(self):
            try:
                yield TextDelta("a")
            finally:
                closing.set()
                assert go_on.wait(20)

        def close(self):
            pass

    stream = ReplyStream(Slow(), Cancellation())
    assert next(stream).text == "a"
    closer = Background(stream.close)
    assert closing.wait(20)
    with pytest.raises(Cancelled, match="the stream was closed"):
        next(stream)
    go_on.set()
    closer.result()


def test_closing_where_nobody_reads(serve):
    """Another thread than the reader's may close a stream between two events."""
    slow = slow_tool()
    client, server = serve([calls(("slow", {}))])
    stream = client.stream_tools("x", [slow])
    while next(stream).type != "tool_started":
        pass
    Background(stream.close).result()
    wait_for(lambda: slow.told == [True])


@suite
@pytest.mark.parametrize("busy", ["with a reply", "with a tool"])
def test_a_dropped_stream(serve, busy):
    """A stream without references closes its connection and cancels its tools."""
    slow, token = slow_tool(), Cancellation()
    if busy == "with a reply":
        client, server = serve(["hello there"], before_event=held_after(4))
    else:
        client, server = serve([calls(("slow", {}))])
    stream = client.stream_tools("x", [slow], cancellation=token)
    while next(stream).type not in ("tool_started", "text_delta"):
        pass
    del stream
    gc.collect()
    if busy == "with a reply":
        assert server.requests[0].disconnected.wait(20)
    else:
        wait_for(lambda: slow.told == [True])
    wait_for(lambda: not token._callbacks)


def test_a_reader_that_fails(serve):
    """An exception in the reader's block closes the stream, and is raised."""
    client, server = serve(["hello there"], before_event=held_after(4))
    with pytest.raises(ZeroDivisionError):
        with client.stream_tools("x", []) as stream:
            for _event in stream:
                1 / 0
    assert server.requests[0].disconnected.wait(20)


def test_a_view_that_is_closed(serve):
    """A generator over a stream closes the connection when a web framework closes it."""
    client, server = serve(["hello there"], before_event=held_after(4))

    def view():
        with client.stream_tools("x", []) as stream:
            for event in stream:
                yield json.dumps(event.to_dict())

    response = view()
    assert json.loads(next(response))["text"] == "hello "
    Background(response.close).result()
    assert server.requests[0].disconnected.wait(20)


# Whose it is

variable = contextvars.ContextVar("variable", default="nobody's")


@pytest.mark.parametrize("workers", [None, 0])
def test_the_context_is_that_of_the_call(workers):
    """Tools run in the context in which the stream was made, on any reader's thread."""
    seen = []

    @tool
    def look() -> None:
        client.generate("leaf")
        seen.append(
            (
                variable.get(),
                trace.get_current_span().get_span_context().span_id,
                Cancellation.current().deadline is not None,
            )
        )

    def model(body):
        return (
            "leaf"
            if body["messages"][0]["content"] == "leaf" or tool_results(body)
            else calls(("look", {}))
        )

    client = ScriptedInferenceClient(model)

    def make():
        variable.set("the caller's")
        otel_context.attach(
            trace.set_span_in_context(
                NonRecordingSpan(SpanContext(trace_id=1, span_id=5, is_remote=False))
            )
        )
        with UsageCounter() as meter, Cancellation(timeout=60):
            return meter, client.stream_tools("x", [look], max_workers=workers)

    meter, stream = contextvars.copy_context().run(make)

    def read():
        variable.set("the reader's")
        with UsageCounter() as other:
            list(stream)
        return other.usage, variable.get()

    assert Background(read).result() == (Usage(), "the reader's")
    assert seen == [("the caller's", 5, True)]
    assert meter.usage == client.usage and meter.usage.requests == 3


def test_a_tool_that_streams_itself():
    """A tool may read a stream of the same client, on a worker's or the reader's thread."""

    def model(body):
        depth = int(body["messages"][0]["content"])
        return (
            "bottom"
            if depth == 0 or tool_results(body)
            else calls(("deeper", {"depth": depth - 1}))
        )

    client = ScriptedInferenceClient(model)

    @tool
    def deeper(depth: int) -> str:
        with client.stream_tools(str(depth), [deeper], max_workers=depth % 2) as stream:
            return "".join(stream.text_stream)

    def read():
        stream = client.stream_tools("5", [deeper], max_workers=0)
        list(stream)
        return stream.run

    assert [made.result for made in Background(read).result().calls] == ["bottom"]


def test_tools_on_the_readers_thread():
    """With max_workers=0 a tool runs when the reader requests the event after its start."""
    threads = []

    @tool
    def where() -> None:
        threads.append(threading.get_ident())

    stream = ScriptedInferenceClient([calls(("where", {})), "done"]).stream_tools(
        "x", [where], max_workers=0
    )
    for event in stream:
        assert (event.type == "tool_started") <= (threads == [])
    assert threads == [threading.get_ident()]


def test_a_pause_for_approval():
    """A stream that stops for approval ends with its run, whose JSON suffices to continue."""

    @tool(requires_approval=True)
    def delete(name: str) -> str:
        return "deleted " + name

    client = ScriptedInferenceClient([calls(("delete", {"name": "x"})), "done"])
    *_, last = client.stream_tools("x", [delete])
    told = json.loads(json.dumps(last.to_dict()))["run"]
    assert (told["stop_reason"], told["calls"]) == ("approval", [])
    (pending,) = told["pending"]
    stream = client.stream_tools(
        told["messages"], [delete]
    )  # undecided: still the same, and nothing is sent
    assert [event.type for event in stream] == ["tool_run_done"]
    assert [call.id for call in stream.run.pending] == [pending["id"]] and len(client.requests) == 1
    stream = client.stream_tools(told["messages"], [delete], approvals={pending["id"]: True})
    kinds = [event.type for event in stream]
    assert kinds == ["tool_started", "tool_finished", "text_delta", "reply_done", "tool_run_done"]
    assert stream.run.calls[0].result == "deleted x"
