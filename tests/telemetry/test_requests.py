"""The spans of requests to models, over every wire: one for all attempts, ended by the reply, an error, or the reader."""

import gc
import logging
import threading

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

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
from asimov_sync.telemetry import names
from asimov_sync.testing import Failure, Fault, ModelServer, ScriptedInferenceClient, calls, tool_results

from ..inference.test_every_client import WIRES, has_converse
from ..secrets import SECRET
from ..tiers import suite
from ..waiting import Background, wait_for

KEY = SECRET + "-telemetry"
PROVIDERS = {"anthropic": "anthropic", "openai": "openai", "invoke": "aws.bedrock", "converse": "aws.bedrock"}
CACHED = Usage(
    input_tokens=20, output_tokens=9, cache_read_input_tokens=7, cache_write_input_tokens=3, reasoning_tokens=0, requests=1
)
SAID = Reply(
    message=ChatMessage(role="assistant", content=[{"type": "text", "text": "One two three four five six."}]),
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
        return AnthropicInferenceClient("m", KEY, server.url, **options)
    if wire == "openai":
        return OpenAIInferenceClient("m", KEY, server.chat_url, **options)
    return BedrockInferenceClient("m", "us-east-1", wire, KEY, server.bedrock_url, **options)


@pytest.fixture(params=WIRES if has_converse() else WIRES[:3])
def wire(request):
    return request.param


@pytest.fixture
def start(request):
    """Starts a ModelServer, and makes a client for it."""

    def started(answers, wire="anthropic", **options):
        server = ModelServer(answers)
        request.addfinalizer(server.close)
        client = client_for(wire, server, **options)
        request.addfinalizer(client.close)
        return client, server

    return started


@suite
def test_a_reply(wire, start, generation, exported):
    """What was asked of whom, what came, and what it used; what went in counts what was cached."""
    client, server = start([SAID, SAID], wire, max_tokens=64, temperature=0.5, stop_sequences=["X"])
    reply = client.generate("hello")
    with client.stream("hello") as stream:
        list(stream)
    whole, streamed = exported.named("chat m")
    for span in (whole, streamed):
        assert (span.kind, span.status.status_code, span.parent) == (SpanKind.CLIENT, StatusCode.UNSET, None)
        told = dict(span.attributes)
        assert told[names.PROVIDER_NAME] == PROVIDERS[wire]
        assert told[names.OPERATION_NAME] == "chat"
        assert (told[names.REQUEST_MODEL], told[names.RESPONSE_MODEL]) == ("m", reply.model or "m")
        assert (told[names.REQUEST_MAX_TOKENS], told[names.REQUEST_TEMPERATURE]) == (64, 0.5)
        assert told[names.REQUEST_STOP_SEQUENCES] == ("X",)
        assert told[names.RESPONSE_FINISH_REASONS] == (reply.raw_stop_reason,)
        usage = reply.usage
        assert usage.cache_read_input_tokens == 7
        assert told[names.USAGE_INPUT_TOKENS] == usage.input_tokens + 7 + usage.cache_write_input_tokens
        assert told[names.USAGE_OUTPUT_TOKENS] == 9
        assert told[names.USAGE_CACHE_READ_INPUT_TOKENS] == 7
        assert told.get(generation.cache_write_input_tokens, 0) == usage.cache_write_input_tokens
        if wire in ("anthropic", "openai"):
            assert told[names.SERVER_ADDRESS] == "127.0.0.1"
            assert told[names.SERVER_PORT] == int(server.bedrock_url.rsplit(":", 1)[1])
    assert names.REQUEST_STREAM not in whole.attributes
    assert names.RESPONSE_TIME_TO_FIRST_CHUNK not in whole.attributes
    assert streamed.attributes[names.REQUEST_STREAM] is True
    seconds = (streamed.end_time - streamed.start_time) / 1e9
    assert 0 < streamed.attributes[names.RESPONSE_TIME_TO_FIRST_CHUNK] <= seconds


def test_cache_writes_have_their_generations_name(start, generation, exported):
    """`cache_creation` in 1.41, `cache_write` since."""
    client, _ = start([SAID])
    client.generate("hello")
    told = exported.one("chat m").attributes
    old = "gen_ai.usage.cache_creation.input_tokens"
    new = "gen_ai.usage.cache_write.input_tokens"
    assert (told.get(old), told.get(new)) == ((3, None) if generation is names.V1_41 else (None, 3))


def test_one_span_over_all_attempts(wire, start, exported):
    """A request that is sent again has one span, and what went wrong before is no error."""
    client, server = start([Failure(500, headers=NOW), Failure(429, headers=NOW), SAID], wire)
    client.generate("hello")
    assert len(server.requests) == 3
    span = exported.one("chat m")
    assert span.status.is_unset
    assert names.ERROR_TYPE not in span.attributes


@suite
def test_a_reply_that_is_cut_and_asked_for_again(start, exported):
    """Its span has the tokens of all attempts: the sum over all spans is what the client has used."""
    client, server = start([Fault(SAID, cut_at=700), SAID])
    client.generate("hello")
    assert len(server.requests) == 2
    told = exported.one("chat m").attributes
    assert told[names.USAGE_OUTPUT_TOKENS] == client.usage.output_tokens
    assert told[names.USAGE_INPUT_TOKENS] == client.usage.total_tokens - client.usage.output_tokens


@suite
def test_an_error(wire, start, generation, exported):
    """Its type is the provider's own word for it; there is no key in it, and no message."""
    client, _ = start([Failure(401, message="not " + "swordfish")], wire, max_retries=0)
    with pytest.raises((AuthenticationError, PermissionDeniedError)) as raised:
        client.generate("hello")
    span = exported.one("chat m")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert span.attributes[names.ERROR_TYPE] == raised.value.error_type
    assert "swordfish" not in span.to_json()
    reasons = span.attributes.get(names.RESPONSE_FINISH_REASONS)
    assert reasons == (("error",) if generation is names.LATEST else None)


def test_an_error_that_no_provider_has_a_word_for(exported):
    """Its type is the name of its class."""
    with ModelServer([]) as server:
        url = server.url
    client = AnthropicInferenceClient("m", KEY, url, max_retries=0)
    with pytest.raises(ConnectionFailed):
        client.generate("hello")
    assert exported.one("chat m").attributes[names.ERROR_TYPE] == "asimov_sync.errors.ConnectionFailed"


def test_a_word_that_is_none(exported):
    """What a provider calls an error is told if it is a word, and not if it is whatever it likes."""
    client = ScriptedInferenceClient([Failure(429, "a long story, with 1 number"), Failure(429, "own_word")], max_retries=0)
    for _ in range(2):
        with pytest.raises(RateLimitError):
            client.generate("hello")
    told = [span.attributes[names.ERROR_TYPE] for span in exported.spans]
    assert told == ["asimov_sync.errors.RateLimitError", "own_word"]


def test_a_stream_that_is_cut(wire, start, generation, exported):
    """It is an error, with what had come by then; and its finish reason is `error` where the conventions have that."""
    client, _ = start([Fault("word " * 500, cut_at=4000)], wire)
    stream = client.stream("hello")
    with pytest.raises(StreamInterrupted) as raised:
        list(stream)
    span = exported.one("chat m")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes[names.ERROR_TYPE] == "asimov_sync.errors.StreamInterrupted"
    reasons = span.attributes.get(names.RESPONSE_FINISH_REASONS)
    assert reasons == (("error",) if generation is names.LATEST else None)
    assert raised.value.partial is not None
    assert span.attributes.get(names.RESPONSE_ID) == raised.value.partial.id
    assert span.attributes.get(names.USAGE_OUTPUT_TOKENS, 0) == client.usage.output_tokens


@suite
@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_stream_that_its_reader_gives_up(how, start, generation, exported):
    """It is no error: nothing went wrong. It has what had come by then."""
    client, _ = start([SAID])
    stream = client.stream("hello")
    next(stream)
    if how == "close":
        stream.close()
        assert len(exported.spans) == 1
    del stream
    gc.collect()
    wait_for(lambda: exported.spans, "the end of the span")
    span = exported.one("chat m")
    assert span.status.is_unset
    assert names.ERROR_TYPE not in span.attributes
    assert span.attributes.get(names.RESPONSE_FINISH_REASONS) == (("error",) if generation is names.LATEST else None)
    assert span.attributes[names.USAGE_INPUT_TOKENS] == 30


def test_a_stream_is_dropped_by_the_garbage_collector(exported):
    """Its span is ended on another thread: the collector may be at work inside of a lock of the SDK's."""
    ended_by = []

    class Noting:
        def on_start(self, span, parent_context=None):
            pass

        def on_end(self, span):
            ended_by.append(threading.current_thread().name)

        def shutdown(self):
            pass

        def force_flush(self, timeout_millis=0):
            return True

        _on_ending = on_start

    exported.tracer_provider.add_span_processor(Noting())
    stream = ScriptedInferenceClient(["a b c d"]).stream("hello")
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
    wait_for(lambda: ended_by)
    assert ended_by == ["asimov-alarms"]


def test_a_stream_that_is_cancelled(start, exported):
    """Its reader is told that it is, and its span ends with that."""
    client, server = start([Fault(SAID, stall=4)])
    stream = client.stream("hello")
    next(stream)
    reading = Background(list, stream)
    wait_for(lambda: server.requests)
    stream.close()
    with pytest.raises(Cancelled):
        reading.result()
    assert exported.one("chat m").attributes[names.ERROR_TYPE] == "asimov_sync.errors.Cancelled"


def test_a_stream_that_is_read_elsewhere(start, exported, caplog):
    """It is a child of who asked, whoever reads it; its span is current for nobody but the request; nothing is detached."""
    client, _ = start([SAID])
    with caplog.at_level(logging.DEBUG, logger="opentelemetry"):
        with exported.span("asking"):
            stream = client.stream("hello")
            asking = trace.get_current_span()

        def read():
            with exported.span("reading") as reading:
                for _ in stream:
                    assert trace.get_current_span() is reading

        assert asking.name == "asking"
        Background(read).result()
    assert exported.paths() == ["/asking", "/asking/chat m", "/reading"]
    assert not [record for record in caplog.records if "detach" in record.getMessage()]


def test_the_request_itself_is_in_its_span(exported):
    """Whatever traces HTTP below finds the span of the request to be the current one, also when it is sent again."""
    current = []

    class Looking(ScriptedInferenceClient):
        def _send(self, request, cancellation, deadline):
            current.append(trace.get_current_span().name)
            return super()._send(request, cancellation, deadline)

    client = Looking([Failure(529, headers=NOW), "good evening"])
    with exported.span("caller") as caller:
        client.generate("hello")
        assert trace.get_current_span() is caller
    assert current == ["chat scripted", "chat scripted"]


def test_streams_that_are_read_by_turns(start, exported):
    """Each has its own span, and ends with its own reply, in whatever order they are read."""
    client, _ = start([SAID, SAID])
    with exported.span("one"):
        one = client.stream("hello")
    with exported.span("two"):
        two = client.stream("hello")
    next(one), next(two), list(one), list(two)
    assert exported.paths() == ["/one", "/one/chat m", "/two", "/two/chat m"]


def model(body):
    return "found" if tool_results(body) else calls(("look_up", {"word": "one"}), ("look_up", {"word": "two"}))


def test_an_agents_stream(exported, caplog):
    """Its span ends with its last event, and has what it used; its requests and tools are its children, whoever reads."""
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
    told = exported.one("invoke_agent ada").attributes
    assert told[names.USAGE_OUTPUT_TOKENS] == stream.run.usage.output_tokens
    assert told[names.USAGE_INPUT_TOKENS] == stream.run.usage.total_tokens - stream.run.usage.output_tokens
    assert told[names.RESPONSE_FINISH_REASONS] == ("end_turn",)
    assert not caplog.records


@suite
@pytest.mark.parametrize("how", ["close", "drop"])
def test_an_agents_stream_that_is_given_up(how, exported):
    """All its spans end."""
    stream = Agent(ScriptedInferenceClient(["a b c d"])).stream("what?")
    next(stream)
    if how == "close":
        stream.close()
    del stream
    gc.collect()
    wait_for(lambda: len(exported.spans) == 2)
    assert exported.paths() == ["/invoke_agent", "/invoke_agent/chat scripted"]


def test_an_agent_that_fails(generation, exported):
    """Its error is the request's, in its stream as well."""
    agent = Agent(ScriptedInferenceClient([Failure(400), Failure(400)]), name="ada")
    for ask in (agent.run, agent.stream):
        with pytest.raises(InvalidRequestError):
            ask("what?")
    assert exported.paths() == ["/invoke_agent ada ERROR"] * 2 + ["/invoke_agent ada ERROR/chat scripted ERROR"] * 2
    span = exported.named("invoke_agent ada")[0]
    assert span.attributes[names.ERROR_TYPE] == "invalid_request_error"
    assert (names.PROVIDER_NAME in span.attributes) == (generation is names.V1_41)


def test_an_agents_stream_that_fails_on_the_way(start, exported):
    """Its error is that of the reply that was cut."""
    client, _ = start([Fault(SAID, cut_at=700)])
    stream = Agent(client).stream("what?")
    with pytest.raises(StreamInterrupted):
        list(stream)
    assert exported.paths() == ["/invoke_agent ERROR", "/invoke_agent ERROR/chat m ERROR"]


def test_tools(exported):
    """A tool that raises is an error of its span alone; a call of a tool that does not exist has no name of the model's."""

    @tool
    def fail(word: str) -> str:
        """Fail."""
        raise OSError("swordfish")

    def script(body):
        if tool_results(body) or "tool_result" in str(body):
            return "done"
        return calls(("fail", {"word": "x"}), ("made-up-name", {}), ("look_up", {"word": "one"}))

    run = ScriptedInferenceClient(script).run_tools("what?", [fail, look_up])
    assert exported.paths()[2:] == ["/execute_tool _OTHER ERROR", "/execute_tool fail ERROR", "/execute_tool look_up"]
    assert exported.one("execute_tool fail").attributes[names.ERROR_TYPE] == "OSError"
    assert dict(exported.one("execute_tool look_up").attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look_up",
        "gen_ai.tool.description": "Look a word up.",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": run.calls[2].call.id,
    }
    assert not any("swordfish" in span.to_json() or "made-up-name" in span.to_json() for span in exported.spans)


def test_a_tool_that_ignores_its_cancellation(exported):
    """Its span ends when it is cancelled, and not when it returns."""
    started, release = threading.Event(), threading.Event()

    @tool
    def hang() -> str:
        """Hang."""
        started.set()
        release.wait(20)
        return "late"

    stream = Agent(ScriptedInferenceClient([calls(("hang", {}))]), tools=[hang], name="ada").stream("what?")
    reading = Background(list, stream)
    assert started.wait(20)
    stream.close()
    with pytest.raises(Cancelled):
        reading.result()
    assert exported.one("execute_tool hang").attributes[names.ERROR_TYPE] == "asimov_sync.errors.Cancelled"
    assert len(exported.spans) == 3
    release.set()


def test_without_telemetry_a_stream_has_nothing_around_it():
    """Not installed, it costs a streamed event nothing: the events are the client's own."""
    stream = ScriptedInferenceClient(["good evening"]).stream("hello")
    assert stream._events.gi_code is RetriedEvents.read.__code__
    stream.close()
