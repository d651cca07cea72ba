"""The Anthropic client, on a real socket."""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import requests
import responses

from asimov_sync import (
    AnthropicInferenceClient,
    AuthenticationError,
    Cancellation,
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    IdleTimeout,
    NotFoundError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    StreamInterrupted,
    TextDelta,
    Timeout,
    Usage,
)
from asimov_sync.messages import ReplyDone
from asimov_sync.testing import Failure, ModelServer, calls

from ..tiers import suite, within
from ..waiting import Background, in_child, wait_for
from .conftest import KEY


class Gates:
    """Holds a server before each event until the test lets it go."""

    def __init__(self):
        self.reached = -1
        self._gates = [threading.Event() for _ in range(200)]

    def __call__(self, request, number):
        self.reached = number
        return self._gates[number]

    def let(self, *numbers):
        for number in numbers:
            self._gates[number].set()

    def let_all(self):
        self.let(*range(len(self._gates)))


def test_constructor():
    """A client takes a model, a key and an address. The constructor sends nothing."""
    client = AnthropicInferenceClient(
        model="claude-3", api_key="your-api-key", api_url="https://api.anthropic.com/v1/messages"
    )
    assert repr(client) == "<AnthropicInferenceClient of claude-3>"


def test_key_from_argument_or_environment(monkeypatch):
    """The key is an argument or $ANTHROPIC_API_KEY. The error for no key names the variable."""
    with pytest.raises(AuthenticationError, match="ANTHROPIC_API_KEY"):
        AnthropicInferenceClient(model="m")
    with pytest.raises(AuthenticationError, match="character"):
        AnthropicInferenceClient(model="m", api_key="sk-é")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY + "\n")
    with ModelServer(["fine"], api_key=KEY) as server, AnthropicInferenceClient(
        model="m", api_url=server.url
    ) as client:
        assert client.generate("hello").text == "fine"


def test_request(serve):
    """The request holds the headers, the given options, and no default except max_tokens."""
    client, server = serve(["a", "b", "c"])
    client.generate("hello")
    request = server.requests[0]
    assert request.body == {
        "model": "claude-test",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
    }
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "anthropic-beta" not in request.headers
    client.with_options(temperature=0.5, max_tokens=None, model="other").generate(
        "hello", system="be brief", max_tokens=7
    )
    assert {
        name: server.requests[1].body[name]
        for name in ("temperature", "max_tokens", "model", "system")
    } == {
        "temperature": 0.5,
        "max_tokens": 7,
        "model": "other",
        "system": "be brief",
    }
    client.generate("hello")
    assert "temperature" not in server.requests[2].body
    assert client.usage.requests == 3


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_each_event_is_yielded_when_it_arrives(serve, framing):
    """An event is yielded before the server sends the next one."""
    gates = Gates()
    client, server = serve(["one two three"], framing=framing, before_event=gates)
    gates.let(0, 1, 2)  # message_start, content_block_start, ping
    stream = client.stream("hello")
    events = iter(stream)
    for number, text in ((3, "one "), (4, "two "), (5, "three")):
        wait_for(lambda: gates.reached == number, f"the server at event {number}")
        next_event = Background(next, events)
        assert next_event.thread.is_alive()
        gates.let(number)
        assert next_event.result() == TextDelta(text)
        assert server.requests[0].sent <= number + 1
    gates.let_all()
    (done,) = list(events)
    assert isinstance(done, ReplyDone)
    assert stream.reply.text == "one two three"


def test_text_stream(serve):
    """text_stream yields only text. The reply is available after the end of the stream."""
    client, _ = serve(["one two"])
    with client.stream("hello") as stream:
        with pytest.raises(Exception, match="end of the stream"):
            stream.reply
        assert list(stream.text_stream) == ["one ", "two"]
        assert stream.reply.stop_reason == "end_turn"
    assert client.usage == stream.reply.usage


@suite
@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("way", ["close", "with", "delete"])
def test_closing_a_stream_closes_the_connection(serve, framing, way):
    """close(), the end of a with block, and garbage collection close the connection."""
    gates = Gates()
    client, server = serve(["one two three"], framing=framing, before_event=gates)
    gates.let(0, 1, 2, 3)
    stream = client.stream("hello")
    assert next(stream) == TextDelta("one ")
    if way == "close":
        stream.close()
        with pytest.raises(Cancelled, match="closed"):
            next(stream)
    elif way == "with":
        with stream:
            pass
    else:
        del stream
        gc.collect()
    assert server.requests[0].disconnected.wait(10)


def test_stream_raises_an_error_status_at_once(serve):
    """stream() raises the error of a 401 before the caller iterates."""
    client, server = serve([])
    unauthorized = AnthropicInferenceClient(model="m", api_key="wrong-key", api_url=server.url)
    with pytest.raises(AuthenticationError, match="invalid x-api-key") as caught:
        unauthorized.stream("hello")
    assert (caught.value.status, caught.value.request_id, caught.value.attempts) == (
        401,
        "req_000000",
        1,
    )
    assert len(server.requests) == 1


SERVER = """
import sys, threading
from asimov_sync.testing import ModelServer
never = threading.Event()
hold = lambda request, number: never if number == 5 else None
server = ModelServer(["one two three"], framing=sys.argv[1], before_event=hold)
print(server.url, flush=True)
never.wait()
"""


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_killed_server(framing):
    """If the server's process is killed during a stream, StreamInterrupted holds the partial text.

    The request is not retried.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, framing], stdout=subprocess.PIPE, universal_newlines=True
    )
    try:
        url = process.stdout.readline().strip()
        with AnthropicInferenceClient(model="m", api_key="k", api_url=url) as client:
            stream = client.stream("hello")
            events = [next(stream), next(stream)]
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(StreamInterrupted) as caught:
                next(stream)
        assert [event.text for event in events] == ["one ", "two "]
        assert caught.value.text == "one two "
        assert caught.value.partial.stop_reason is None
        assert caught.value.usage.input_tokens > 0
        assert caught.value.attempts == 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.usefixtures("fast_time")
@suite
def test_cut_after_each_event(serve):
    """A stream that is cut after any event raises an error. generate() retries and returns the
    whole reply.
    """
    cut_at = []

    def cut(request, number):
        if cut_at and number == cut_at[0]:
            raise ConnectionResetError("cut on purpose")

    client, server = serve(lambda body: "one two three", framing="close", before_event=cut)
    client.generate("hello")
    for number in range(3, server.requests[0].sent):
        cut_at[:] = [number]
        stream = client.with_options(max_retries=0).stream("hello")
        with pytest.raises(StreamInterrupted):
            list(stream)
    earlier_requests = len(server.requests)

    def cut_once(request, number):
        if request.number == earlier_requests and number == 4:
            raise ConnectionResetError("cut on purpose")

    server.before_event = cut_once
    assert client.generate("hello").text == "one two three"
    assert len(server.requests) == earlier_requests + 2


def test_retry_before_content(serve):
    """A stream that fails before its first content is retried; the caller notices nothing."""
    client, server = serve(
        [
            Failure(529, "overloaded_error", "busy", {"retry-after": "0"}),
            Failure(500, headers={"retry-after-ms": "1"}),
            "fine",
        ]
    )
    assert "".join(client.stream("hello").text_stream) == "fine"
    assert len(server.requests) == 3


def test_default_number_of_attempts(serve):
    """By default a request has three attempts. The error holds their number."""
    client, server = serve([Failure(529, "overloaded_error", "busy", {"retry-after": "0"})] * 4)
    with pytest.raises(OverloadedError) as caught:
        client.generate("hello")
    assert caught.value.attempts == len(server.requests) == 3


def test_long_retry_after_is_not_awaited(serve):
    """A 429 with a retry-after above a minute is raised at once; retry_after holds the seconds."""
    client, server = serve([Failure(429, "rate_limit_error", "later", {"retry-after": "3600"})])
    with pytest.raises(RateLimitError) as caught:
        client.generate("hello")
    assert caught.value.retry_after == 3600
    assert len(server.requests) == 1


def test_wrong_address(serve):
    """A response in another format is a ProviderError that mentions api_url. An unknown path is a
    NotFoundError.
    """
    client, server = serve([])
    wrong_path = AnthropicInferenceClient(
        model="m", api_key=KEY, api_url=server.url.replace("/v1/messages", "/nope")
    )
    with pytest.raises(NotFoundError):
        wrong_path.generate("hello")
    with responses.RequestsMock() as mocked:
        mocked.add(
            responses.POST,
            "https://example.test/",
            body="<html>hello</html>",
            content_type="text/html",
        )
        web_page = AnthropicInferenceClient(
            model="m", api_key=KEY, api_url="https://example.test/", max_retries=0
        )
        with pytest.raises(ProviderError, match="api_url"):
            web_page.generate("hello")


def test_whole_reply_to_a_stream_request():
    """If a server answers a stream request with a whole JSON reply, stream() yields its events."""
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    client = AnthropicInferenceClient(model="m", api_key=KEY)
    with responses.RequestsMock() as mocked:
        mocked.add(responses.POST, "https://api.anthropic.com/v1/messages", json=body)
        events = list(client.stream("hello"))
    assert [event.type for event in events] == ["text_delta", "tool_call_ready", "reply_done"]
    assert events[-1].reply.usage == Usage(input_tokens=1, output_tokens=2, requests=1)


def test_refused_connection():
    """A refused connection is a ConnectionFailed; its cause is the operating system's error."""
    client = AnthropicInferenceClient(
        model="m", api_key=KEY, api_url="http://127.0.0.1:9/", max_retries=0
    )
    with pytest.raises(ConnectionFailed) as caught:
        client.generate("hello")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def reachable(error):
    """Return the objects that an exception refers to: its chain, arguments and attributes.

    Frames and modules are omitted.
    """
    seen, pending = {}, [error]
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, (type, type(os))):
            continue
        seen[id(value)] = value
        if isinstance(value, BaseException):
            pending += [value.__cause__, value.__context__, value.args]
        if isinstance(value, dict):
            pending += list(value.keys()) + list(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending += list(value)
        elif hasattr(value, "__dict__"):
            pending.append(vars(value))
    return list(seen.values())


@suite
@pytest.mark.parametrize(
    "failure", ["refused", "status", "cut", "idle", "garbage", "header", "address", "version"]
)
def test_no_key_in_any_error(serve, failure, caplog):
    """The key is in no object that an error refers to, and in no text, repr or log record."""
    gates = Gates()
    gates.let(0, 1, 2, 3)
    client, server = serve(
        [Failure(400, "invalid_request_error", "no"), "one two"],
        {"max_retries": 0, "timeout": Timeout(idle=0.3)},
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(Exception) as caught:
        if failure == "refused":
            AnthropicInferenceClient(
                model="m", api_key=KEY, api_url="http://127.0.0.1:9/", max_retries=0
            ).generate("x")
        elif failure == "header":
            AnthropicInferenceClient(
                model="m", api_key=KEY + "\nx", api_url=server.url, max_retries=0
            ).generate("x")
        elif failure == "status":
            client.generate("x")
        elif failure == "garbage":
            with responses.RequestsMock() as mocked:
                mocked.add(
                    responses.POST,
                    server.url,
                    body=requests.ConnectionError(
                        "odd", request=requests.Request(headers={"k": KEY})
                    ),
                )
                client.generate("x")
        else:
            server.script.answer({})
            server.before_event = gates
            stream = client.stream("x")
            next(stream)
            if failure == "cut":
                server.close()
            list(stream)
    texts = [value for value in reachable(caught.value) if isinstance(value, (str, bytes))]
    assert texts
    assert not [
        value for value in texts if (KEY.encode() if isinstance(value, bytes) else KEY) in value
    ]
    assert not [
        value
        for value in reachable(caught.value)
        if isinstance(value, (requests.Request, requests.PreparedRequest))
    ]
    assert KEY not in repr(client) + repr(vars(client)) + caplog.text


@suite
@pytest.mark.parametrize("phase", ["before the headers", "in the body"])
def test_idle_server(serve, phase):
    """After timeout.idle seconds without a byte, IdleTimeout is raised with the partial reply."""
    gates = Gates()
    if phase == "in the body":
        gates.let(0, 1, 2, 3)
    silent = threading.Event()
    client, _ = serve(
        lambda body: (phase == "in the body" or silent.wait(20)) and "one two",
        {"max_retries": 0, "timeout": Timeout(idle=0.2)},
        before_event=gates,
    )
    start = time.monotonic()
    with pytest.raises(IdleTimeout) as caught:
        list(client.stream("hello"))
    assert 0.15 < time.monotonic() - start < 5
    if phase == "in the body":
        assert caught.value.partial.text == "one "
    silent.set()


def test_slow_endless_stream(serve):
    """A stream that never ends and is never idle ends at timeout.total."""
    client, _ = serve(
        ["word " * 500],
        {"timeout": Timeout(total=0.3)},
        before_event=lambda request, number: time.sleep(0.02),
    )
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        list(client.stream("hello"))
    assert time.monotonic() - start < 5
    assert caught.value.partial.text.startswith("word ")


@pytest.mark.parametrize("phase", ["before the headers", "in the body", "in a retry's wait"])
def test_cancelling_a_blocked_call(serve, phase):
    """Cancelling ends a blocked call at once, although the server keeps its socket open."""
    gates, silent = Gates(), threading.Event()
    gates.let(0, 1, 2, 3)

    def answer(body):
        if phase == "before the headers":
            silent.wait(20)
        return (
            Failure(429, "rate_limit_error", "x", {"retry-after": "30"})
            if phase == "in a retry's wait"
            else "one two"
        )

    client, server = serve(answer, before_event=gates)
    token = Cancellation()
    call = Background(lambda: list(client.stream("hello", cancellation=token)))
    wait_for(
        lambda: server.requests and (phase != "in the body" or gates.reached == 4), "the request"
    )
    time.sleep(0.05)
    start = time.monotonic()
    token.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        call.result()
    assert time.monotonic() - start < within(0.5)
    silent.set()


def test_closing_from_another_thread(serve):
    """close() on one thread ends next() on another."""
    gates = Gates()
    gates.let(0, 1, 2, 3)
    client, _ = serve(["one two"], before_event=gates)
    stream = client.stream("hello")
    assert next(stream) == TextDelta("one ")
    call = Background(next, stream, None)
    wait_for(lambda: gates.reached == 4)
    time.sleep(0.05)
    stream.close()
    with pytest.raises(Cancelled, match="closed"):
        call.result(2)


def test_connection_reuse(serve):
    """Successive requests use one connection, streamed or not."""
    client, server = serve(lambda body: "fine")
    for _ in range(3):
        client.generate("hello")
        list(client.stream("hello"))
    assert len({request.port for request in server.requests}) == 1


def test_many_threads_on_one_client(serve):
    """Thirty threads share one client: each call returns its own reply, and the usage is exact."""
    client, server = serve(lambda body: body["messages"][0]["content"])
    started = [Background(client.generate, f"question {number}") for number in range(30)]
    replies = [call.result() for call in started]
    assert [reply.text for reply in replies] == [f"question {number}" for number in range(30)]
    assert client.usage == sum((reply.usage for reply in replies), Usage())


def test_a_client_works_in_a_forked_child(serve):
    """A client with open connections works in a forked child, and still works in the parent."""
    client, server = serve(lambda body: body["messages"][0]["content"])
    client.generate("before")

    def use():
        for _ in range(3):
            assert client.generate("child").text == "child"

    in_child(use)
    assert client.generate("after").text == "after"


def test_tool_loop_over_http(serve):
    """A tool loop sends tool definitions, receives calls and sends the results."""
    client, server = serve([calls(("add", {"a": 2, "b": 3})), "five"])

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    run = client.run_tools("2 + 3?", [add], system="be exact")
    assert run.text == "five"
    assert [definition["name"] for definition in server.requests[0].body["tools"]] == ["add"]
    result = server.requests[1].body["messages"][-1]
    assert result["role"] == "user"
    assert json.loads(result["content"][0]["content"]) == 5
    assert server.requests[1].body["system"] == "be exact"


def test_netrc_does_not_replace_the_key(serve, monkeypatch, tmp_path):
    """A password in ~/.netrc does not replace the API key."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client, server = serve(["fine"])
    assert client.generate("hello").text == "fine"
    assert "authorization" not in server.requests[0].headers
