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
from asimov_sync.testing import (
    Failure,
    ScriptedInferenceClient,
    calls,
    count_callbacks,
    tool_results,
)
from asimov_sync.usage import UsageCounter

from ..tiers import suite
from ..waiting import Background, wait_for


def reply_with_calls(text, *requested):
    """Return a reply with text and tool calls."""
    tool_calls = calls(*requested)
    blocks = [{"type": "text", "text": text}]
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in tool_calls
    ]
    return Reply(
        message=ChatMessage(role="assistant", content=blocks),
        stop_reason="tool_use",
        raw_stop_reason="tool_use",
        tool_calls=tool_calls,
        usage=Usage(input_tokens=7, output_tokens=3, requests=1),
    )


@tool
def weather(city: str) -> dict:
    """Report the weather."""
    return {"city": city, "degrees": {"now": 21.5}}


@tool
def broken() -> None:
    """Always fail."""
    raise RuntimeError("it broke")


def script():
    return [
        reply_with_calls("Let me look.", ("weather", {"city": "Rome"}), ("broken", {})),
        reply_with_calls("Once more.", ("weather", {"city": "Oslo"})),
        "It is warm in Rome.",
    ]


class Page:
    """A browser's page, which is built from lines of JSON only."""

    def __init__(self):
        self.replies, self.tools, self.run = [""], {}, None

    def add_line(self, line):
        event = json.loads(line)
        kind = event["type"]
        if kind == "text_delta":
            self.replies[-1] += event["text"]
        elif kind == "tool_call_ready":
            self.tools[event["call"]["id"]] = [
                event["call"]["name"],
                event["call"]["arguments"],
                "ready",
            ]
        elif kind == "tool_started":
            self.tools[event["call"]["id"]][2] = "started"
        elif kind == "tool_finished":
            self.tools[event["call"]["id"]][2] = event["error"] or event["result"]
        elif kind == "reply_done":
            assert self.replies[-1] == "".join(
                block["text"]
                for block in event["reply"]["message"]["content"]
                if block["type"] == "text"
            )
            self.replies.append("")
        else:
            assert kind == "tool_run_done"
            self.run = event["run"]


def test_page_from_json(serve):
    """The JSON of the events suffices to show text, calls and the end, and to continue."""
    client, server = serve(script())
    page, stream = Page(), client.stream_tools("How warm is it?", [weather, broken])
    for event in stream:
        page.add_line(json.dumps(event.to_dict(), allow_nan=False))
    assert page.replies == ["Let me look.", "Once more.", "It is warm in Rome.", ""]
    assert list(page.tools.values()) == [
        ["weather", {"city": "Rome"}, {"city": "Rome", "degrees": {"now": 21.5}}],
        ["broken", {}, "RuntimeError: it broke"],
        ["weather", {"city": "Oslo"}, {"city": "Oslo", "degrees": {"now": 21.5}}],
    ]
    run = stream.run
    assert (page.run["stop_reason"], page.run["iterations"]) == ("end_turn", 3)
    assert Usage.model_validate(page.run["usage"]) == run.usage
    assert Reply.model_validate(page.run["reply"]) == run.reply
    assert [ChatMessage.model_validate(item) for item in page.run["messages"]] == run.messages
    assert [ToolCall.model_validate(item["call"]) for item in page.run["calls"]] == [
        item.call for item in run.calls
    ]
    assert [item["exception"] for item in page.run["calls"]] == [
        None,
        "RuntimeError: it broke",
        None,
    ]


def test_the_order_of_events(serve):
    """Each call is ready, starts and finishes before the next reply. The run is the last event."""
    client, server = serve(script())
    kinds = [event.type for event in client.stream_tools("x", [weather, broken], max_workers=1)]
    without_text = [kind for kind in kinds if kind != "text_delta"]
    ready, executed = ["tool_call_ready"], ["tool_started", "tool_finished"]
    first = 2 * ready + ["reply_done"] + 2 * executed
    assert without_text == first + ready + ["reply_done"] + executed + [
        "reply_done",
        "tool_run_done",
    ]
    assert kinds[-6:-2] == ["text_delta"] * 4


def test_equals_run_tools():
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


def test_events_are_immediate(serve):
    """Text is yielded while the server holds the rest; a tool's start while the tool runs."""
    gates = {3: threading.Event()}
    client, server = serve(
        [reply_with_calls("one two", ("slow", {"number": 0}), ("slow", {"number": 1})), "done"],
        before_event=lambda request, number: gates.get(number) if request.number == 0 else None,
    )
    finish = [threading.Event(), threading.Event()]

    @tool
    def slow(number: int) -> int:
        assert finish[number].wait(20)
        return number

    with client.stream_tools("x", [slow]) as stream:
        next_event = Background(next, stream)
        wait_for(lambda: server.requests[0].sent == 3)
        gates[3].set()
        assert next_event.result().text == "one "
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
    assert [result.result for result in stream.run.calls] == [0, 1]


def test_text_stream(serve):
    """text_stream yields the text of all replies; .run is available afterwards."""
    client, server = serve(script())
    stream = client.stream_tools("x", [weather, broken])
    assert "".join(stream.text_stream) == "Let me look.Once more.It is warm in Rome."
    assert stream.run.text == "It is warm in Rome."


# Errors


def test_error_of_the_first_request(serve):
    """stream_tools() itself raises an error of the first request."""
    client, server = serve(["never"])
    server.api_key = "another"
    with pytest.raises(AuthenticationError) as caught:
        client.stream_tools("x", [weather])
    assert (caught.value.status, [message.text for message in caught.value.messages]) == (
        401,
        ["x"],
    )


def test_invalid_arguments(serve):
    """stream_tools() itself raises ValueError for invalid arguments, and nothing is sent."""
    client, server = serve(["never"])
    for arguments in ({"max_iterations": 0}, {"max_workers": -1}, {"approvals": {"nope": True}}):
        with pytest.raises(ValueError):
            client.stream_tools("x", [weather], **arguments)
    assert server.requests == []


def test_error_of_a_later_request(serve):
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
        next(stream)  # not StopIteration: the stream is incomplete


def cut_once(position):
    """Break the first connection before an event."""

    def break_connection(request, number):
        if request.number == 0 and number == position:
            raise OSError("the connection breaks")

    return break_connection


@pytest.mark.usefixtures("fast_time")
@suite
def test_cut_before_the_first_event(serve):
    """A reply that breaks before its first event is requested again."""
    client, server = serve(["hello", "hello"], before_event=cut_once(2))
    stream = client.stream_tools("x", [])
    assert [event.text for event in stream if event.type == "text_delta"] == ["hello"]
    assert len(server.requests) == 2


def test_cut_after_the_first_event(serve):
    """A later cut is a StreamInterrupted with the partial reply and the history."""
    client, server = serve(["hello there", "hello there"], before_event=cut_once(4))
    texts = []
    with pytest.raises(StreamInterrupted) as caught:
        for event in client.stream_tools("x", []):
            texts.append(event.text)
    assert ("".join(texts), caught.value.text) == ("hello ", "hello ")
    assert client.run_tools(caught.value.messages, []).text == "hello there"


# Streams that are closed early


def hold_at(position):
    """Hold every stream before an event until its client disconnects."""
    return lambda request, number: threading.Event() if number == position else None


def test_closing_between_two_events(serve):
    """Closing a stream closes its connection at once; the next request opens another."""
    client, server = serve(lambda body: "hello there", before_event=hold_at(4))
    with client.stream_tools("x", [weather]) as stream:
        assert next(stream).text == "hello "
    assert server.requests[0].disconnected.wait(20)
    server.before_event = None
    assert client.generate("x").text == "hello there"
    with pytest.raises(Cancelled, match="closed"):
        next(stream)
    stream.close()  # a second close is not an error


def slow_tool():
    """Return a tool that waits for its cancellation.

    `.started` is set when it starts; `.results` receives the result of the wait.
    """

    def slow() -> str:
        waiting_tool.started.set()
        waiting_tool.results.append(Cancellation.current().wait(20))
        return "late"

    waiting_tool = tool(slow)
    waiting_tool.started, waiting_tool.results = threading.Event(), []
    return waiting_tool


def test_closing_while_a_tool_runs(serve):
    """Closing a stream cancels the running tools, and sends no further request."""
    slow = slow_tool()
    client, server = serve([calls(("slow", {})), "never"])
    with client.stream_tools("x", [slow]) as stream:
        while next(stream).type != "tool_started":
            pass
        assert slow.started.wait(20)
    wait_for(lambda: slow.results == [True])
    assert len(server.requests) == 1


@pytest.mark.parametrize("phase", ["in a reply", "in a tool"])
def test_closing_from_another_thread(serve, phase):
    """close() ends a blocked read for text or for a tool."""
    slow = slow_tool()
    if phase == "in a reply":
        client, server = serve(["hello there"], before_event=hold_at(4))
    else:
        client, server = serve([calls(("slow", {}))])
    stream = client.stream_tools("x", [slow])
    call = Background(list, stream)
    if phase == "in a reply":
        wait_for(lambda: server.requests[0].sent == 4)
    else:
        assert slow.started.wait(20)
    stream.close()
    with pytest.raises(Cancelled, match="the stream was closed"):
        call.result(5)
    if phase == "in a reply":
        assert server.requests[0].disconnected.wait(20)
    else:
        wait_for(lambda: slow.results == [True])


def test_reading_while_another_thread_closes():
    """A read during another thread's close() raises Cancelled."""
    closing, continue_closing = threading.Event(), threading.Event()

    class Slow(EventSource):
        def read(self):
            try:
                yield TextDelta("a")
            finally:
                closing.set()
                assert continue_closing.wait(20)

        def close(self):
            pass

    stream = ReplyStream(Slow(), Cancellation())
    assert next(stream).text == "a"
    closing_thread = Background(stream.close)
    assert closing.wait(20)
    with pytest.raises(Cancelled, match="the stream was closed"):
        next(stream)
    continue_closing.set()
    closing_thread.result()


def test_closing_between_reads(serve):
    """A thread that does not read may close the stream between two events."""
    slow = slow_tool()
    client, server = serve([calls(("slow", {}))])
    stream = client.stream_tools("x", [slow])
    while next(stream).type != "tool_started":
        pass
    assert slow.started.wait(20)
    Background(stream.close).result()
    wait_for(lambda: slow.results == [True])


@suite
@pytest.mark.parametrize("phase", ["in a reply", "in a tool"])
def test_unreferenced_stream(serve, phase):
    """A stream without references closes its connection and cancels its tools."""
    slow, token = slow_tool(), Cancellation()
    if phase == "in a reply":
        client, server = serve(["hello there"], before_event=hold_at(4))
    else:
        client, server = serve([calls(("slow", {}))])
    stream = client.stream_tools("x", [slow], cancellation=token)
    while next(stream).type not in ("tool_started", "text_delta"):
        pass
    assert phase == "in a reply" or slow.started.wait(20)
    del stream
    gc.collect()
    if phase == "in a reply":
        assert server.requests[0].disconnected.wait(20)
    else:
        wait_for(lambda: slow.results == [True])
    wait_for(lambda: not count_callbacks(token))


def test_exception_in_the_with_block(serve):
    """An exception in the with block closes the stream, and is raised."""
    client, server = serve(["hello there"], before_event=hold_at(4))
    with pytest.raises(ZeroDivisionError):
        with client.stream_tools("x", []) as stream:
            for _event in stream:
                1 / 0
    assert server.requests[0].disconnected.wait(20)


def test_closing_a_view(serve):
    """When a web framework closes a generator over a stream, the connection is closed."""
    client, server = serve(["hello there"], before_event=hold_at(4))

    def view():
        with client.stream_tools("x", []) as stream:
            for event in stream:
                yield json.dumps(event.to_dict())

    response = view()
    assert json.loads(next(response))["text"] == "hello "
    Background(response.close).result()
    assert server.requests[0].disconnected.wait(20)


# Context and threads

variable = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("workers", [None, 0])
def test_context_of_tools(workers):
    """Tools run in the context of the stream_tools() call, on any reader's thread."""
    contexts = []

    @tool
    def record_context() -> None:
        client.generate("leaf")
        contexts.append(
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
            else calls(("record_context", {}))
        )

    client = ScriptedInferenceClient(model)

    def start():
        variable.set("the caller's")
        otel_context.attach(
            trace.set_span_in_context(
                NonRecordingSpan(SpanContext(trace_id=1, span_id=5, is_remote=False))
            )
        )
        with UsageCounter() as counter, Cancellation(timeout=60):
            return counter, client.stream_tools("x", [record_context], max_workers=workers)

    counter, stream = contextvars.copy_context().run(start)

    def read():
        variable.set("the reader's")
        with UsageCounter() as counter_of_reader:
            list(stream)
        return counter_of_reader.usage, variable.get()

    assert Background(read).result() == (Usage(), "the reader's")
    assert contexts == [("the caller's", 5, True)]
    assert counter.usage == client.usage and counter.usage.requests == 3


def test_nested_streams():
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

    assert [result.result for result in Background(read).result().calls] == ["bottom"]


def test_tools_on_the_readers_thread():
    """With max_workers=0 a tool runs when the reader requests the event after its start."""
    threads = []

    @tool
    def record_thread() -> None:
        threads.append(threading.get_ident())

    stream = ScriptedInferenceClient([calls(("record_thread", {})), "done"]).stream_tools(
        "x", [record_thread], max_workers=0
    )
    for event in stream:
        assert (event.type == "tool_started") <= (threads == [])
    assert threads == [threading.get_ident()]


def test_stop_for_approval():
    """A stream that stops for approval ends with its run, whose JSON suffices to continue."""

    @tool(requires_approval=True)
    def delete(name: str) -> str:
        return "deleted " + name

    client = ScriptedInferenceClient([calls(("delete", {"name": "x"})), "done"])
    *_, last = client.stream_tools("x", [delete])
    run = json.loads(json.dumps(last.to_dict()))["run"]
    assert (run["stop_reason"], run["calls"]) == ("approval", [])
    (pending,) = run["pending"]
    # Without a decision, the run stays pending, and nothing is sent.
    stream = client.stream_tools(run["messages"], [delete])
    assert [event.type for event in stream] == ["tool_run_done"]
    assert [call.id for call in stream.run.pending] == [pending["id"]] and len(client.requests) == 1
    stream = client.stream_tools(run["messages"], [delete], approvals={pending["id"]: True})
    kinds = [event.type for event in stream]
    assert kinds == ["tool_started", "tool_finished", "text_delta", "reply_done", "tool_run_done"]
    assert stream.run.calls[0].result == "deleted x"
