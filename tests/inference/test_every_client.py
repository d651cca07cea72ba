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
    """Return whether this boto3 has Converse, which is newer than the last boto3 for Python 3.7."""
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
    """Start ModelServers, each with a client of the wire. All are closed after the test."""
    resources = []

    def start_server(script, **options):
        server = ModelServer(script, api_key=KEY)
        client = client_for(request.param, server, **options)
        client.wire_of_test = request.param
        resources.extend([client, server])
        return client, server

    yield start_server
    for resource in resources:
        resource.close()


@tool
def get_weather(city: str) -> str:
    """Report the weather of a city."""
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


def test_reply(start):
    """Text, stop reason and usage are those of the server, streamed and not."""
    usage = Usage(
        input_tokens=20,
        output_tokens=5,
        cache_read_input_tokens=7,
        cache_write_input_tokens=3,
        requests=1,
    )
    message = ChatMessage(
        role="assistant", content=[{"type": "text", "text": "Wörds of a reply\u2028."}]
    )
    answer = Reply(message=message, stop_reason="max_tokens", usage=usage, model="m", id="r")
    client, server = start([answer, answer])
    whole = client.generate("hello")
    with client.stream("hello") as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 1
    for reply in (whole, stream.reply):
        assert (reply.text, reply.stop_reason, reply.usage) == (message.text, "max_tokens", usage)
    assert client.usage == server.usage == usage + usage


def test_conversation(start):
    """The system prompt and earlier turns arrive in their roles."""
    client, server = start(weather_script)
    history = [ChatMessage(role="user", content="hello"), client.generate("hello").message, "again"]
    assert client.generate(history, system="Ada").text == "Good evening, Ada."


@suite
def test_tool_loop(start):
    """Results and failures of tools are sent back in order. The run's usage is the server's."""
    client, server = start(weather_script)
    run = client.run_tools("How is the weather?", [get_weather])
    results = run.text.split(": ", 1)[1].split(" / ")
    assert results[0] == "sunny in Rome" and results[1].endswith("LookupError: no station")
    assert (run.iterations, run.stop_reason, run.usage) == (2, "end_turn", server.usage)
    assert [type(result.exception) for result in run.calls] == [type(None), LookupError]
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
    """output= returns a validated model, whatever the wire's way to request it."""

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
        boto3.client("bedrock-runtime", region_name="us-east-1"), "count_tokens"
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


def test_wrong_key(start):
    """stream() itself raises the error of a wrong key, with the status 401 or 403."""
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
    """A request is retried after two failures. A third failure raises its error."""
    client, server = start([failure, failure, "hello"] + [failure] * 3)
    assert client.generate("hello").text == "hello"
    with pytest.raises(kind) as caught:
        client.generate("hello")
    assert caught.value.attempts == 3
    assert len(server.requests) == 6


def test_invalid_request(start):
    """A 400 is not retried. Its error holds the provider's message."""
    client, server = start([Failure(400, message="no such thing")])
    with pytest.raises(InvalidRequestError, match="no such thing"):
        client.generate("hello")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("fast_time")
@suite
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_cut_stream(start, reset):
    """A stream that is cut after content is a StreamInterrupted with the partial reply.

    It is not retried.
    """
    text = "one two three four five six " * 20
    client, server = start([Fault(text, cut_at=3000, reset=reset), "whole"])
    with pytest.raises(StreamInterrupted) as caught:
        list(client.stream("hello"))
    assert server.requests[0].faults and len(server.requests) == 1
    assert text.startswith(caught.value.text)
    assert reset or caught.value.text  # a reset may discard bytes that were not read yet
    assert caught.value.partial.stop_reason is None


@pytest.mark.usefixtures("fast_time")
@suite
def test_an_error_inside_a_stream(start):
    """An error event after a 200 raises its error. Before any content the request is retried."""
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
    """Twenty threads share one client: each receives its own replies, and the usage is exact."""
    client, server = start(lambda body: "answer to " + last_text(body))
    barrier = threading.Barrier(20)

    def send(number):
        barrier.wait(20)
        for turn in range(3):
            question = f"question {number}-{turn}"
            with client.stream(question) as stream:
                assert "".join(stream.text_stream) == "answer to " + question

    for call in [Background(send, number) for number in range(20)]:
        call.result(60)
    assert client.usage == server.usage
    assert client.usage.requests == 60


def test_quoted_key(start):
    """If the server's error message quotes the key, the error does not show it."""
    client, server = start([Failure(403, message=f"the key {KEY} may not do this")])
    with pytest.raises(PermissionDeniedError, match="the key … may not do this"):
        client.generate("hello")
