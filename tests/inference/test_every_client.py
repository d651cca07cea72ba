"""Behaviour of every client: one script, run over each wire on a real server."""

import threading

import boto3
import pydantic
import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    AuthenticationError,
    BedrockInferenceClient,
    ChatMessage,
    InvalidRequestError,
    OpenAIInferenceClient,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
    Reply,
    StreamInterrupted,
    ToolFinished,
    Usage,
    tool,
)
from asimov_sync.testing import Failure, Fault, ModelServer, calls, last_text, tool_results

from ..tiers import suite
from ..waiting import Background
from .conftest import KEY

WIRES = ["anthropic", "openai", "invoke", "converse"]


def has_converse():
    """Whether this boto3 has Converse; it came after the last boto3 for Python 3.7."""
    version = tuple(int(part) for part in boto3.__version__.split(".")[:3])
    return version >= (1, 34, 116)


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
def start(request):
    """Starts a ModelServer, and makes the wire's client for it."""
    opened = []

    def started(answers, **options):
        server = ModelServer(answers, api_key=KEY)
        client = client_for(request.param, server, **options)
        client.wire_of_test = request.param
        opened.extend([client, server])
        return client, server

    yield started
    for one in opened:
        one.close()


@tool
def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    if city == "Oslo":
        raise LookupError("no station")
    return "sunny in " + city


def weather_script(body):
    if tool_results(body):
        return "I have seen: " + " / ".join(
            block["content"] if isinstance(block["content"], str) else block["content"][0]["text"]
            for block in body["messages"][-1]["content"]
        )
    if "weather" in last_text(body):
        return calls(("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"}))
    return (
        "Good evening, "
        + (body.get("system") if isinstance(body.get("system"), str) else "you")
        + "."
    )


def test_a_reply(start):
    """Text, stop reason and usage are those of the server, streamed and not."""
    usage = Usage(
        input_tokens=20,
        output_tokens=5,
        cache_read_input_tokens=7,
        cache_write_input_tokens=3,
        requests=1,
    )
    said = ChatMessage(
        role="assistant", content=[{"type": "text", "text": "Wörds of a reply\u2028."}]
    )
    answer = Reply(message=said, stop_reason="max_tokens", usage=usage, model="m", id="r")
    client, server = start([answer, answer])
    whole = client.generate("hello")
    with client.stream("hello") as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 1
    for reply in (whole, stream.reply):
        assert (reply.text, reply.stop_reason, reply.usage) == (said.text, "max_tokens", usage)
    assert client.usage == server.usage == usage + usage


def test_a_system_prompt_and_a_conversation(start):
    """System prompts and earlier turns arrive in their roles."""
    client, server = start(weather_script)
    history = [ChatMessage(role="user", content="hello"), client.generate("hello").message, "again"]
    assert client.generate(history, system="Ada").text == "Good evening, Ada."


@suite
def test_the_tool_loop(start):
    """Tools are called, results and failures sent back in order, and the run's usage is the
    server's.
    """
    client, server = start(weather_script)
    run = client.run_tools("How is the weather?", [get_weather])
    told = run.text.split(": ", 1)[1].split(" / ")
    assert told[0] == "sunny in Rome" and told[1].endswith("LookupError: no station")
    assert (run.iterations, run.stop_reason, run.usage) == (2, "end_turn", server.usage)
    assert [type(called.exception) for called in run.calls] == [type(None), LookupError]
    stream = client.stream_tools("How is the weather?", [get_weather])
    events = list(stream)
    assert sorted(
        event.call.arguments["city"] for event in events if isinstance(event, ToolFinished)
    ) == ["Oslo", "Rome"]
    assert stream.run.text == run.text
    assert "".join(event.text for event in events if event.type == "text_delta") == run.text


class Person(pydantic.BaseModel):
    name: str
    age: int


@suite
def test_structured_output(start):
    """output= comes back as a validated model, whichever way the wire has of asking for it."""

    def script(body):
        if body.get("tool_choice", {}).get("type") == "tool":
            return calls((body["tool_choice"]["name"], {"name": "Ada", "age": 36}))
        return '{"name": "Ada", "age": 36}'

    client, _ = start(script)
    assert client.generate("who?", output=Person).parsed == Person(name="Ada", age=36)


def test_counting_tokens(start):
    """count_tokens returns the provider's count; a wire without one raises an error."""
    client, server = start(weather_script)
    if client.wire_of_test == "openai":
        with pytest.raises(InvalidRequestError, match="counts tokens"):
            client.count_tokens("hello")
    elif client.wire_of_test != "anthropic" and not hasattr(
        client._runtime.client(), "count_tokens"
    ):
        with pytest.raises(InvalidRequestError, match="boto3"):
            client.count_tokens("hello")
    else:
        short, long = (
            client.count_tokens("hello"),
            client.count_tokens("hello " * 100, system="You are brief."),
        )
        assert 0 < short < long
    assert client.usage == Usage()


def test_a_wrong_key(start):
    """A key that is not accepted is an AuthenticationError, raised by stream() itself, or a refusal
    of permission.
    """
    client, server = start(["hello"])
    server.api_key = "another"
    with pytest.raises(
        AuthenticationError if client.wire_of_test in ("anthropic", "openai") else Exception
    ) as caught:
        client.stream("hello")
    assert caught.value.status in (401, 403)
    assert len(server.requests) == 1


@suite
@pytest.mark.parametrize(
    "failure, kind",
    [
        (Failure(429, message="slowly", headers={"retry-after-ms": "1"}), RateLimitError),
        (
            Failure(529, message="busy", headers={"retry-after-ms": "1"}),
            (OverloadedError, ProviderError),
        ),
        (Failure(500, message="broken", headers={"retry-after-ms": "1"}), ProviderError),
    ],
    ids=["429", "529", "500"],
)
def test_transient_failures_are_retried(start, failure, kind):
    """Two failures and then an answer is an answer; failures without end are three attempts and
    their error.
    """
    client, server = start([failure, failure, "hello"] + [failure] * 3)
    assert client.generate("hello").text == "hello"
    with pytest.raises(kind) as caught:
        client.generate("hello")
    assert caught.value.attempts == 3
    assert len(server.requests) == 6


def test_a_request_that_is_wrong(start):
    """A 400 is sent once, and its error holds the provider's words."""
    client, server = start([Failure(400, message="no such thing")])
    with pytest.raises(InvalidRequestError, match="no such thing"):
        client.generate("hello")
    assert len(server.requests) == 1


@suite
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_a_cut(start, reset):
    """A stream that is cut after content is a StreamInterrupted with the partial reply, and is not
    retried.
    """
    text = "one two three four five six " * 20
    client, server = start([Fault(text, cut_at=3000, reset=reset), "whole"])
    with pytest.raises(StreamInterrupted) as caught:
        list(client.stream("hello"))
    assert server.requests[0].faults and len(server.requests) == 1
    assert text.startswith(caught.value.text)
    assert reset or caught.value.text  # a reset may take with it what was under way
    assert caught.value.partial.stop_reason is None


@suite
def test_an_error_inside_a_stream(start):
    """An error event after a 200 is the error of its type; before any content it is tried again."""
    busy = Failure(529, message="busy")
    client, server = start(
        [
            Fault("one two", error_at=0, error=busy),
            "hello",
            Fault("one two", error_at=5, error=busy),
        ]
    )
    assert list(client.stream("hello").text_stream)[-1] == "hello"
    with pytest.raises((OverloadedError, ProviderError), match="busy") as caught:
        list(client.stream("hello"))
    assert "one two".startswith(caught.value.partial.text)
    assert [len(request.faults) for request in server.requests] == [1, 0, 1]


@suite
def test_many_threads(start):
    """Twenty threads on one client: each gets its own reply, and the usage is exact."""
    client, server = start(lambda body: "answer to " + last_text(body))
    together = threading.Barrier(20)

    def ask(number):
        together.wait(20)
        for turn in range(3):
            question = f"question {number}-{turn}"
            with client.stream(question) as stream:
                assert "".join(stream.text_stream) == "answer to " + question

    for call in [Background(ask, number) for number in range(20)]:
        call.result(60)
    assert client.usage == server.usage
    assert client.usage.requests == 60


def test_a_key_that_is_quoted(start):
    """A server that quotes the key that it refuses does not bring it into the error."""
    client, server = start([Failure(403, message=f"the key {KEY} may not do this")])
    with pytest.raises(PermissionDeniedError, match="the key … may not do this"):
        client.generate("hello")
