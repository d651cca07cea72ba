"""Servers that violate the wire format.

Each violation is a typed error, and never a truncated reply that looks whole.
"""

import json
import socket
import ssl
import threading

import pytest
import requests

from asimov_sync import (
    AnthropicInferenceClient,
    AuthenticationError,
    Cancellation,
    Cancelled,
    ConnectionFailed,
    InferenceError,
    InvalidRequestError,
    OpenAIInferenceClient,
    OverloadedError,
    ProviderError,
    StreamInterrupted,
    Timeout,
    tool,
)
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..tiers import suite
from ..waiting import Background
from .byte_server import ByteServer, RawResponse

START = {
    "type": "message_start",
    "message": {"id": "m", "content": [], "usage": {"input_tokens": 3}},
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half"}}
STOP = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"output_tokens": 2},
}
END = {"type": "message_stop"}
JSON = {"content-type": "application/json"}


def make_response(body, **options):
    """Return a response with a content-length; by default with the media type of a stream."""
    options = dict(
        {"headers": {"content-type": "text/event-stream"}, "framing": "length"}, **options
    )
    return RawResponse(body, **options)


def sse(*events):
    return b"".join(
        b"data: %s\n\n" % (event if isinstance(event, bytes) else json.dumps(event).encode())
        for event in events
    )


def make_client(server, **options):
    return AnthropicInferenceClient(
        model="m", api_key="k", api_url=server.url, max_retries=0, **options
    )


@pytest.mark.parametrize(
    "invalid",
    [
        b"null",
        b"[1]",
        b"12",
        b"nonsense",
        b"[" * 100000,
        b"\xff\xfe",
        {"no": "type"},
        {"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": None}},
        {"type": "content_block_delta", "index": 0},
        {"type": "content_block_start", "index": "x", "content_block": {}},
        {"type": "content_block_stop", "index": 9},
        {"type": "message_start", "message": None},
    ],
    ids=lambda event: str(event)[:60],
)
def test_unreadable_events(invalid):
    """An unreadable event is a StreamInterrupted with the partial reply."""
    with ByteServer(make_response(sse(START, BLOCK, TEXT, invalid, STOP, END))) as server:
        stream = make_client(server).stream("hello")
        assert next(stream).text == "half"
        with pytest.raises(StreamInterrupted) as caught:
            list(stream)
    assert caught.value.text == "half"
    assert isinstance(caught.value.__cause__, ProviderError)


@pytest.mark.parametrize(
    "invalid",
    [{"usage": [1]}, {"usage": {"output_tokens": "many", "cache_creation": 5}}, {"usage": None}],
    ids=str,
)
def test_invalid_usage(invalid):
    """Invalid usage figures count as zero, and the reply is complete."""
    with ByteServer(make_response(sse(START, BLOCK, TEXT, dict(STOP, **invalid), END))) as server:
        reply = make_client(server).generate("hello")
    assert (reply.text, reply.usage.input_tokens, reply.usage.output_tokens) == ("half", 3, 0)


def test_events_without_data():
    """An event with an empty data line is ignored."""
    with ByteServer(make_response(sse(START, b"", BLOCK, TEXT, STOP, END))) as server:
        assert make_client(server).generate("hello").text == "half"


@pytest.mark.parametrize(
    "events",
    [[END], [START, END], [START, BLOCK, TEXT, END], [BLOCK, TEXT, STOP]],
    ids=["stop", "start, stop", "no reason", "no stop"],
)
def test_incomplete_streams(events):
    """A stream without a start, without a stop reason or without its final event is interrupted."""
    with ByteServer(make_response(sse(*events))) as server, pytest.raises(StreamInterrupted):
        make_client(server).generate("hello")


@pytest.mark.parametrize(
    "body",
    [
        {"type": "message"},
        {"type": "ping"},
        {"type": "message", "content": [], "stop_reason": None},
        {"type": "message", "content": "text", "stop_reason": "end_turn"},
        {"type": "message", "content": [7], "stop_reason": "end_turn"},
        [],
        7,
        None,
    ],
    ids=str,
)
def test_json_without_a_message(body):
    """A status 200 with JSON that is not a complete message is a ProviderError."""
    with ByteServer(make_response(json.dumps(body).encode(), headers=JSON)) as server:
        with pytest.raises(ProviderError, match="Messages API"):
            make_client(server).generate("hello")


@pytest.mark.parametrize(
    "body, message",
    [
        ({"error": {"type": "invalid_request_error", "message": ["a", {"b": 1}]}}, "'a'"),
        ({"error": "model not found"}, "model not found"),
        ({"error": None}, "no reason"),
        (["x"], "no reason"),
        ("text", "text"),
        (None, "no reason"),
    ],
    ids=str,
)
def test_error_bodies(body, message):
    """A 400 is an InvalidRequestError, whatever its body. A readable message is shown."""
    with ByteServer(make_response(json.dumps(body).encode(), status=400, headers=JSON)) as server:
        with pytest.raises(InvalidRequestError, match=message):
            make_client(server).generate("hello")


@pytest.mark.parametrize("stall", [False, True], ids=["cut", "stalled"])
def test_status_determines_the_error(stall):
    """A 401 with a truncated or missing body is an AuthenticationError, and is not retried."""
    unauthorized = make_response(
        b'{"type": "err', status=401, headers=JSON, length=500, hold=1 if stall else None
    )
    with ByteServer(unauthorized) as server:
        with pytest.raises(AuthenticationError):
            make_client(server, timeout=Timeout(idle=0.3)).with_options(max_retries=2).generate(
                "hello"
            )
        assert server.connections == 1


def test_endless_error_body():
    """Only the beginning of an error's body is read."""
    endless = make_response(
        b"x" * 1000000, status=500, headers={"content-type": "text/plain"}, length=10**9, hold=1
    )
    with ByteServer(endless) as server:
        with pytest.raises(ProviderError) as caught:
            Background(make_client(server).generate, "hello").result(10)
    assert len(str(caught.value)) < 3000


def test_slow_endless_headers():
    """timeout.total also limits the time before the body."""
    from asimov_sync import DeadlineExceeded

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    done = threading.Event()

    def send_slowly():
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not done.wait(0.05):
                try:
                    connection.sendall(b"x-drip: 1\r\n")
                except OSError:
                    return

    sending = Background(send_slowly)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    slow = AnthropicInferenceClient(
        model="m", api_key="k", api_url=url, max_retries=0, timeout=Timeout(total=0.3)
    )
    with pytest.raises(DeadlineExceeded, match="0.3"):
        Background(slow.generate, "hello").result(5)
    done.set()
    sending.result()
    listener.close()


def test_lone_surrogates_are_replaced():
    """A lone surrogate, as in the name of a file, is sent as a question mark."""

    @tool
    def names() -> str:
        return "caf\udce9.txt"

    with ByteServer(make_response(sse(START, BLOCK, TEXT, STOP, END))) as server:
        assert make_client(server).generate("caf\udce9.txt").text == "half"
    scripted = ScriptedInferenceClient([calls(("names", {})), "done"])
    assert scripted.run_tools("go", [names]).text == "done"


def test_tools_that_exit():
    """A tool that calls sys.exit() ends only itself: the model receives an error."""
    import sys

    @tool
    def leave() -> str:
        sys.exit("usage: leave")

    for max_workers in (None, 0):
        make_client = ScriptedInferenceClient([calls(("leave", {})), "done"])
        run = Background(make_client.run_tools, "go", [leave], max_workers=max_workers).result()
        assert run.text == "done"
        assert isinstance(run.calls[0].exception, SystemExit)


@pytest.mark.parametrize("max_workers", [None, 1, 0])
def test_a_tool_that_cancels_ends_the_run(max_workers):
    """A tool that cancels the current token ends the loop; later calls are skipped."""
    numbers = []

    @tool
    def stop(number: int) -> str:
        numbers.append(number)
        Cancellation.current().cancel("by the tool")
        return ""

    make_client = ScriptedInferenceClient(
        [calls(("stop", {"number": 1}), ("stop", {"number": 2})), "done"]
    )
    with pytest.raises(Cancelled, match="by the tool"):
        Background(
            lambda: make_client.run_tools(
                "go", [stop], max_workers=max_workers, cancellation=Cancellation()
            )
        ).result()
    assert 1 in numbers and (max_workers is None or numbers == [1])


def test_truncated_replies_are_charged():
    """The client's usage includes the tokens of a truncated reply, as far as they were reported."""
    with ByteServer(make_response(sse(START, BLOCK, TEXT))) as server:
        client = make_client(server)
        with pytest.raises(InferenceError):
            client.generate("hello")
        assert client.usage.input_tokens == 3


def test_a_failure_before_the_first_figure_is_not_charged():
    """A stream that fails before its first usage figure adds no usage and no request."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    with ByteServer(make_response(sse(error))) as server:
        client = make_client(server)
        with pytest.raises(OverloadedError):
            client.generate("hello")
        assert client.usage.requests == 0


def test_a_tls_handshake_that_fails():
    """A server without TLS is a ConnectionFailed whose cause, the SSL error, holds no request."""
    with ByteServer() as server:
        secure = AnthropicInferenceClient(
            model="m", api_key="k", api_url=server.url.replace("http:", "https:"), max_retries=0
        )
        with pytest.raises(ConnectionFailed) as caught:
            Background(secure.generate, "hello").result()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    assert caught.value.__context__ is None


def test_closing_a_client_from_with_options(serve):
    """Closing a client from with_options leaves the original's connections and threads open."""

    def add(a: int) -> int:
        return a

    client, server = serve([calls(("add", {"a": 1})), "done"])
    client.with_options(temperature=1).close()
    assert client.run_tools("go", [add]).text == "done"


@suite
def test_a_large_request_is_not_bounded_by_the_connect_timeout(serve):
    """timeout.connect bounds only the connect; timeout.idle bounds a server that reads slowly."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)

    def read_late():
        connection, _ = listener.accept()
        with connection:
            threading.Event().wait(0.8)
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(1 << 20)
            length = int(data.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            received = len(data.split(b"\r\n\r\n", 1)[1])
            while received < length:
                received += len(connection.recv(1 << 20))
            connection.sendall(b"".join(make_response(sse(START, BLOCK, TEXT, STOP, END)).writes()))

    serving = Background(read_late)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    slow = AnthropicInferenceClient(
        model="m", api_key="k", api_url=url, max_retries=0, timeout=Timeout(connect=0.3, idle=10)
    )
    assert slow.generate("x" * 12000000).text == "half"
    serving.result()
    listener.close()


INFINITE = b'{"type":"content_block_start","index":1e999,"content_block":{"type":"text"}}'


@pytest.mark.parametrize(
    "invalid",
    [
        INFINITE,
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": 5}},
    ],
)
def test_values_of_wrong_types(invalid):
    """An infinite index, or a number instead of text, is a StreamInterrupted that names the
    problem.
    """
    with ByteServer(make_response(sse(START, BLOCK, TEXT, invalid, STOP, END))) as server:
        with pytest.raises(StreamInterrupted, match="must be a (whole number|string)") as caught:
            list(make_client(server).stream("hello"))
    assert caught.value.text == "half"


def test_number_instead_of_text():
    """In a whole reply, a number instead of text is a ProviderError that names the problem."""
    body = {"type": "message", "content": [{"type": "text", "text": 5}], "stop_reason": "end_turn"}
    with ByteServer(make_response(json.dumps(body).encode(), headers=JSON)) as server:
        with pytest.raises(ProviderError, match="the text of a block must be a string, not int"):
            make_client(server).generate("hello")


INVALID_COUNTS = [b"null", b"1e999", b"NaN", b"-5", b"1.9", b"true", b'"5"', b"[1]"]


@pytest.mark.parametrize("invalid", INVALID_COUNTS, ids=bytes.decode)
def test_invalid_token_count(invalid):
    """A token count must be a whole number from 0; anything else is a ProviderError."""
    with ByteServer(make_response(b'{"input_tokens": %s}' % invalid, headers=JSON)) as server:
        with pytest.raises(ProviderError, match="input_tokens must be a whole number"):
            make_client(server).count_tokens("hello")


def test_token_count_of_zero():
    """A token count of zero is accepted."""
    with ByteServer(make_response(b'{"input_tokens": 0}', headers=JSON)) as server:
        assert make_client(server).count_tokens("hello") == 0


@pytest.mark.parametrize("api_key", ["k", None])
def test_invalid_address(api_key):
    """The constructor raises ValueError for an invalid address, with and without a key."""
    for make in (AnthropicInferenceClient, OpenAIInferenceClient):
        if api_key is None and make is AnthropicInferenceClient:
            continue
        with pytest.raises(ValueError, match="api_url must be a whole address"):
            make("m", api_key=api_key, api_url="http://[::1")


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_proxy_without_a_host(source, monkeypatch):
    """A ConnectionFailed names the proxy without its password. The request is not retried."""
    proxies = {"http": "http://u:password@"}
    if source == "environment":
        monkeypatch.setenv("http_proxy", proxies["http"])
        proxies = None
    client = OpenAIInferenceClient(
        "m", api_key="k", api_url="http://192.0.2.1/chat/completions", proxies=proxies
    )
    with pytest.raises(ConnectionFailed, match="the proxy for 'http' has no host") as caught:
        client.generate("hello")
    assert caught.value.attempts == 1
    assert caught.value.__context__ is None
    assert "password" not in str(caught.value)


def test_errors_of_session_hooks():
    """A TypeError of a session's hook reaches the caller unchanged."""
    session = requests.Session()
    session.hooks["response"].append(lambda response: None)  # takes too few arguments
    with ByteServer(make_response(sse(START, BLOCK, TEXT, STOP, END))) as server:
        with pytest.raises(TypeError):
            make_client(server, session=session).generate("hello")
