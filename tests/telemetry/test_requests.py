"""Spans of model requests on every wire: one for all attempts, with reply, error or neither."""

import gc
import logging
import sys
import threading

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import BaseModel

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    AuthenticationError,
    BedrockInferenceClient,
    Cancelled,
    ChatMessage,
    ConnectionFailed,
    InvalidRequestError,
    OpenAIInferenceClient,
    PermissionDeniedError,
    RateLimitError,
    Reply,
    StreamInterrupted,
    Usage,
    tool,
)
from asimov_sync.inference.reply_events import RetriedEvents
from asimov_sync.inference.stream import ObservedEvents
from asimov_sync.telemetry import names
from asimov_sync.testing import (
    Failure,
    Fault,
    ModelServer,
    ScriptedInferenceClient,
    calls,
    tool_results,
)

from ..inference.test_every_client import WIRES, has_converse
from ..secrets import SECRET
from ..tiers import suite
from ..waiting import Background, wait_for

KEY = SECRET + "-telemetry"
PROVIDERS = {
    "anthropic": "anthropic",
    "openai": "openai",
    "invoke": "aws.bedrock",
    "converse": "aws.bedrock",
}
CACHED = Usage(
    input_tokens=20,
    output_tokens=9,
    cache_read_input_tokens=7,
    cache_write_input_tokens=3,
    reasoning_tokens=0,
    requests=1,
)
SAID = Reply(
    message=ChatMessage(
        role="assistant", content=[{"type": "text", "text": "One two three four five six."}]
    ),
    stop_reason="end_turn",
    usage=CACHED,
    model="m-2",
    id="r-1",
)
NOW = {"retry-after": "0"}


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word.upper()


def client_for(wire, server, **options):
    if wire == "anthropic":
        return AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, **options)
    if wire == "openai":
        return OpenAIInferenceClient("m", api_key=KEY, api_url=server.chat_url, **options)
    return BedrockInferenceClient(
        "m",
        region_name="us-east-1",
        api=wire,
        api_key=KEY,
        endpoint_url=server.bedrock_url,
        **options,
    )


@pytest.fixture(params=WIRES if has_converse() else WIRES[:3])
def wire(request):
    return request.param


@pytest.fixture
def start(request):
    """Return a function that starts a ModelServer and makes a client for it."""

    def start_server(answers, wire="anthropic", **options):
        server = ModelServer(answers)
        request.addfinalizer(server.close)
        client = client_for(wire, server, **options)
        request.addfinalizer(client.close)
        return client, server

    return start_server


@suite
def test_reply(wire, start, generation, exported):
    """The span has the request, the reply and its usage. Input tokens include cached ones."""
    client, server = start([SAID, SAID], wire, max_tokens=64, temperature=0.5, stop_sequences=["X"])
    reply = client.generate("hello")
    with client.stream("hello") as stream:
        list(stream)
    whole, streamed = exported.spans_named("chat m")
    for span in (whole, streamed):
        assert (span.kind, span.status.status_code, span.parent) == (
            SpanKind.CLIENT,
            StatusCode.UNSET,
            None,
        )
        attributes = dict(span.attributes)
        assert attributes[names.PROVIDER_NAME] == PROVIDERS[wire]
        assert attributes[names.OPERATION_NAME] == "chat"
        assert (attributes[names.REQUEST_MODEL], attributes[names.RESPONSE_MODEL]) == (
            "m",
            reply.model or "m",
        )
        assert (attributes[names.REQUEST_MAX_TOKENS], attributes[names.REQUEST_TEMPERATURE]) == (
            64,
            0.5,
        )
        assert attributes[names.REQUEST_STOP_SEQUENCES] == ("X",)
        assert attributes[names.RESPONSE_FINISH_REASONS] == (reply.raw_stop_reason,)
        usage = reply.usage
        assert usage.cache_read_input_tokens == 7
        assert (
            attributes[names.USAGE_INPUT_TOKENS]
            == usage.input_tokens + 7 + usage.cache_write_input_tokens
        )
        assert attributes[names.USAGE_OUTPUT_TOKENS] == 9
        assert attributes[names.USAGE_CACHE_READ_INPUT_TOKENS] == 7
        assert (
            attributes.get(generation.cache_write_input_tokens, 0) == usage.cache_write_input_tokens
        )
        if wire in ("anthropic", "openai"):
            assert attributes[names.SERVER_ADDRESS] == "127.0.0.1"
            assert attributes[names.SERVER_PORT] == int(server.bedrock_url.rsplit(":", 1)[1])
    assert names.REQUEST_STREAM not in whole.attributes
    assert names.RESPONSE_TIME_TO_FIRST_CHUNK not in whole.attributes
    assert streamed.attributes[names.REQUEST_STREAM] is True
    seconds = (streamed.end_time - streamed.start_time) / 1e9
    assert 0 < streamed.attributes[names.RESPONSE_TIME_TO_FIRST_CHUNK] <= seconds


def test_cache_write_attribute(start, generation, exported):
    """The attribute is `cache_creation` in 1.41 and `cache_write` in LATEST."""
    client, _ = start([SAID])
    client.generate("hello")
    attributes = exported.only_span("chat m").attributes
    old = "gen_ai.usage.cache_creation.input_tokens"
    attribute = "gen_ai.usage.cache_write.input_tokens"
    assert (attributes.get(old), attributes.get(attribute)) == (
        (3, None) if generation is names.V1_41 else (None, 3)
    )


def test_one_span_over_all_attempts(wire, start, exported):
    """A retried request has one span, which the failed attempts do not mark as an error."""
    client, server = start([Failure(500, headers=NOW), Failure(429, headers=NOW), SAID], wire)
    client.generate("hello")
    assert len(server.requests) == 3
    span = exported.only_span("chat m")
    assert span.status.is_unset
    assert names.ERROR_TYPE not in span.attributes


@suite
def test_tokens_of_all_attempts(start, exported):
    """The span has the tokens of all attempts, so that spans add up to the client's usage."""
    client, server = start([Fault(SAID, cut_at=700), SAID])
    client.generate("hello")
    assert len(server.requests) == 2
    attributes = exported.only_span("chat m").attributes
    assert attributes[names.USAGE_OUTPUT_TOKENS] == client.usage.output_tokens
    assert (
        attributes[names.USAGE_INPUT_TOKENS]
        == client.usage.total_tokens - client.usage.output_tokens
    )


@suite
def test_error(wire, start, generation, exported):
    """The error type is the provider's. The span contains no key and no message."""
    client, _ = start([Failure(401, message="not " + "swordfish")], wire, max_retries=0)
    with pytest.raises((AuthenticationError, PermissionDeniedError)) as raised:
        client.generate("hello")
    span = exported.only_span("chat m")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert span.attributes[names.ERROR_TYPE] == raised.value.error_type
    assert "swordfish" not in span.to_json()
    reasons = span.attributes.get(names.RESPONSE_FINISH_REASONS)
    assert reasons == (("error",) if generation is names.LATEST else None)


def test_error_without_provider_type(exported):
    """Without an error type of the provider, the type is the name of the class."""
    with ModelServer([]) as server:
        url = server.url
    client = AnthropicInferenceClient("m", api_key=KEY, api_url=url, max_retries=0)
    with pytest.raises(ConnectionFailed):
        client.generate("hello")
    assert (
        exported.only_span("chat m").attributes[names.ERROR_TYPE]
        == "asimov_sync.errors.ConnectionFailed"
    )


def test_error_type_must_be_a_word(exported):
    """The provider's error type is recorded only if it is a single word."""
    client = ScriptedInferenceClient(
        [Failure(429, "a long story, with 1 number"), Failure(429, "own_word")], max_retries=0
    )
    for _ in range(2):
        with pytest.raises(RateLimitError):
            client.generate("hello")
    attributes = [span.attributes[names.ERROR_TYPE] for span in exported.spans]
    assert attributes == ["asimov_sync.errors.RateLimitError", "own_word"]


def test_cut_stream(wire, start, generation, exported):
    """A cut stream is an error with the partial reply; LATEST has the finish reason `error`."""
    client, _ = start([Fault("word " * 500, cut_at=4000)], wire)
    stream = client.stream("hello")
    with pytest.raises(StreamInterrupted) as raised:
        list(stream)
    span = exported.only_span("chat m")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes[names.ERROR_TYPE] == "asimov_sync.errors.StreamInterrupted"
    reasons = span.attributes.get(names.RESPONSE_FINISH_REASONS)
    assert reasons == (("error",) if generation is names.LATEST else None)
    assert raised.value.partial is not None
    assert span.attributes.get(names.RESPONSE_ID) == raised.value.partial.id
    assert span.attributes.get(names.USAGE_OUTPUT_TOKENS, 0) == client.usage.output_tokens


@suite
@pytest.mark.parametrize("way", ["close", "drop"])
def test_abandoned_stream(way, start, generation, exported):
    """A stream that is closed or dropped is not an error. The span has the partial reply."""
    client, _ = start([SAID])
    stream = client.stream("hello")
    next(stream)
    if way == "close":
        stream.close()
        assert len(exported.spans) == 1
    del stream
    gc.collect()
    wait_for(lambda: exported.spans, "the end of the span")
    span = exported.only_span("chat m")
    assert span.status.is_unset
    assert names.ERROR_TYPE not in span.attributes
    assert span.attributes.get(names.RESPONSE_FINISH_REASONS) == (
        ("error",) if generation is names.LATEST else None
    )
    assert span.attributes[names.USAGE_INPUT_TOKENS] == 30


def test_garbage_collected_stream(exported):
    """The span ends on another thread: the collector may run while the SDK holds a lock."""
    ended_by = []

    class ThreadRecorder:
        def on_start(self, span, parent_context=None):
            pass

        def on_end(self, span):
            ended_by.append(threading.current_thread().name)

        def shutdown(self):
            pass

        def force_flush(self, timeout_millis=0):
            return True

        _on_ending = on_start

    exported.tracer_provider.add_span_processor(ThreadRecorder())
    stream = ScriptedInferenceClient(["a b c d"]).stream("hello")
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
    wait_for(lambda: ended_by)
    assert ended_by == ["asimov-timers"]


def test_cancelled_stream(start, exported):
    """The reader of a cancelled stream gets Cancelled, and the stream's span ends with it."""
    client, server = start([Fault(SAID, stall=4)])
    stream = client.stream("hello")
    next(stream)
    reading = Background(list, stream)
    wait_for(lambda: server.requests)
    stream.close()
    with pytest.raises(Cancelled):
        reading.result()
    assert (
        exported.only_span("chat m").attributes[names.ERROR_TYPE] == "asimov_sync.errors.Cancelled"
    )


def test_stream_read_on_another_thread(start, exported, caplog):
    """The span's parent is the requester's span. It is never current for the reader."""
    client, _ = start([SAID])
    with caplog.at_level(logging.DEBUG, logger="opentelemetry"):
        with exported.span("asking"):
            stream = client.stream("hello")
            current_span = trace.get_current_span()

        def read():
            with exported.span("reading") as reading:
                for _ in stream:
                    assert trace.get_current_span() is reading

        assert current_span.name == "asking"
        Background(read).result()
    assert exported.paths() == ["/asking", "/asking/chat m", "/reading"]
    assert not [record for record in caplog.records if "detach" in record.getMessage()]


def test_span_is_current_during_request(exported):
    """The span of the request is current while it is sent, in each attempt."""
    current = []

    class SpanRecordingClient(ScriptedInferenceClient):
        def _send(self, request, cancellation, deadline):
            current.append(trace.get_current_span().name)
            return super()._send(request, cancellation, deadline)

    client = SpanRecordingClient([Failure(529, headers=NOW), "good evening"])
    with exported.span("caller") as caller:
        client.generate("hello")
        assert trace.get_current_span() is caller
    assert current == ["chat scripted", "chat scripted"]


def test_interleaved_streams(start, exported):
    """Streams read alternately each end their own span."""
    client, _ = start([SAID, SAID])
    with exported.span("one"):
        first_stream = client.stream("hello")
    with exported.span("two"):
        two = client.stream("hello")
    next(first_stream), next(two), list(first_stream), list(two)
    assert exported.paths() == ["/one", "/one/chat m", "/two", "/two/chat m"]


def model(body):
    return (
        "found"
        if tool_results(body)
        else calls(("look_up", {"word": "one"}), ("look_up", {"word": "two"}))
    )


def test_agent_stream(exported, caplog):
    """The span ends with the last event and has the usage; requests and tools are its children."""
    agent = Agent(ScriptedInferenceClient(model), tools=[look_up], name="ada")
    with exported.span("asking"):
        stream = agent.stream("what?")
    with exported.span("reading"):
        Background(list, stream).result()
    assert stream.run.text == "found"
    assert exported.paths() == [
        "/asking",
        "/asking/invoke_agent ada",
        "/asking/invoke_agent ada/chat scripted",
        "/asking/invoke_agent ada/chat scripted",
        "/asking/invoke_agent ada/execute_tool look_up",
        "/asking/invoke_agent ada/execute_tool look_up",
        "/reading",
    ]
    attributes = exported.only_span("invoke_agent ada").attributes
    assert attributes[names.USAGE_OUTPUT_TOKENS] == stream.run.usage.output_tokens
    assert (
        attributes[names.USAGE_INPUT_TOKENS]
        == stream.run.usage.total_tokens - stream.run.usage.output_tokens
    )
    assert attributes[names.RESPONSE_FINISH_REASONS] == ("end_turn",)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@suite
@pytest.mark.parametrize("way", ["close", "drop"])
def test_abandoned_agent_stream(way, exported):
    """All spans of a closed or dropped stream end."""
    stream = Agent(ScriptedInferenceClient(["a b c d"])).stream("what?")
    next(stream)
    if way == "close":
        stream.close()
    del stream
    gc.collect()
    wait_for(lambda: len(exported.spans) == 2)
    assert exported.paths() == ["/invoke_agent", "/invoke_agent/chat scripted"]


def test_failing_agent(generation, exported):
    """The agent's error is that of its request, also when it is streamed."""
    agent = Agent(ScriptedInferenceClient([Failure(400), Failure(400)]), name="ada")
    for ask in (agent.run, agent.stream):
        with pytest.raises(InvalidRequestError):
            ask("what?")
    assert (
        exported.paths()
        == ["/invoke_agent ada ERROR"] * 2 + ["/invoke_agent ada ERROR/chat scripted ERROR"] * 2
    )
    span = exported.spans_named("invoke_agent ada")[0]
    assert span.attributes[names.ERROR_TYPE] == "invalid_request_error"
    assert (names.PROVIDER_NAME in span.attributes) == (generation is names.V1_41)


def test_failing_agent_stream(start, exported):
    """The agent's error is that of the cut reply."""
    client, _ = start([Fault(SAID, cut_at=700)])
    stream = Agent(client).stream("what?")
    with pytest.raises(StreamInterrupted):
        list(stream)
    assert exported.paths() == ["/invoke_agent ERROR", "/invoke_agent ERROR/chat m ERROR"]


def test_tools(exported):
    """A tool's exception is an error of its own span; unknown tools are named _OTHER."""

    @tool
    def fail(word: str) -> str:
        """Fail."""
        raise OSError("swordfish")

    def script(body):
        if tool_results(body) or "tool_result" in str(body):
            return "done"
        return calls(("fail", {"word": "x"}), ("made-up-name", {}), ("look_up", {"word": "one"}))

    run = ScriptedInferenceClient(script).run_tools("what?", [fail, look_up])
    assert exported.paths()[2:] == [
        "/execute_tool _OTHER ERROR",
        "/execute_tool fail ERROR",
        "/execute_tool look_up",
    ]
    assert exported.only_span("execute_tool fail").attributes[names.ERROR_TYPE] == "OSError"
    assert dict(exported.only_span("execute_tool look_up").attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look_up",
        "gen_ai.tool.description": "Look a word up.",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": run.calls[2].call.id,
    }
    assert not any(
        "swordfish" in span.to_json() or "made-up-name" in span.to_json() for span in exported.spans
    )


def test_tool_ignores_cancellation(exported):
    """The span of such a tool ends when the tool is cancelled, not when it returns."""
    started, release = threading.Event(), threading.Event()

    @tool
    def hang() -> str:
        """Hang."""
        started.set()
        release.wait(20)
        return "late"

    stream = Agent(ScriptedInferenceClient([calls(("hang", {}))]), tools=[hang], name="ada").stream(
        "what?"
    )
    reading = Background(list, stream)
    assert started.wait(20)
    stream.close()
    with pytest.raises(Cancelled):
        reading.result()
    assert (
        exported.only_span("execute_tool hang").attributes[names.ERROR_TYPE]
        == "asimov_sync.errors.Cancelled"
    )
    assert len(exported.spans) == 3
    release.set()


def test_no_wrapper_without_telemetry():
    """Without telemetry, a stream's events are the client's own, with no wrapper."""
    stream = ScriptedInferenceClient(["good evening"]).stream("hello")
    functions, modules = set(), set()

    def record(frame, event, argument):
        functions.add(frame.f_code)
        modules.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(record)
    try:
        list(stream)
    finally:
        sys.setprofile(None)
    assert RetriedEvents.read.__code__ in functions
    assert ObservedEvents.read.__code__ not in functions
    assert not [name for name in modules if name.startswith("asimov_sync.telemetry")]


def test_agents_options(with_content):
    """An agent's span has the options of its requests, the system prompt and the tools."""
    client = ScriptedInferenceClient([calls(("look_up", {"word": "x"})), "done"], max_tokens=64)
    Agent(client, system="Be brief.", tools=[look_up], temperature=0.5, name="ada").run(
        "what?", top_p=0.9
    )
    attributes = with_content.only_span("invoke_agent ada").attributes
    assert attributes[names.REQUEST_MAX_TOKENS] == 64
    assert attributes[names.REQUEST_TEMPERATURE] == 0.5
    assert attributes[names.REQUEST_TOP_P] == 0.9
    assert "Be brief." in attributes[names.SYSTEM_INSTRUCTIONS]
    assert "look_up" in attributes[names.TOOL_DEFINITIONS]
    assert names.OUTPUT_TYPE not in attributes


def test_output_type(start, exported):
    """A request with an output format has its type; so has an agent whose answer is data."""

    class Answer(BaseModel):
        word: str

    client, _ = start(lambda body: '{"word": "x"}', "openai")
    Agent(client, output=Answer, name="ada").run("what?")
    assert exported.only_span("invoke_agent ada").attributes[names.OUTPUT_TYPE] == "json"
    assert exported.only_span("chat m").attributes[names.OUTPUT_TYPE] == "json"
    client.generate("what?")
    assert names.OUTPUT_TYPE not in exported.spans_named("chat m")[1].attributes


@pytest.mark.parametrize("method", [Agent.run, Agent.stream])
def test_conversation_id(method, exported):
    """The id is on the agent's span, on its requests and on nested agents, and nowhere else."""
    inner = Agent(ScriptedInferenceClient(["found"]), name="inner")

    @tool
    def research(question: str) -> str:
        """Ask another agent."""
        return inner.run(question).text

    client = ScriptedInferenceClient([calls(("research", {"question": "?"})), "done", "bye"])
    result = method(Agent(client, tools=[research], name="ada"), "what?", conversation_id="c-7")
    if method is Agent.stream:
        list(result)
    client.generate("hello")
    ids = [
        (span.name.split()[0], span.attributes.get("gen_ai.conversation.id"))
        for span in exported.spans
    ]
    assert ids == [
        ("invoke_agent", "c-7"),
        ("chat", "c-7"),
        ("execute_tool", None),
        ("invoke_agent", "c-7"),
        ("chat", "c-7"),
        ("chat", "c-7"),
        ("chat", None),
    ]
