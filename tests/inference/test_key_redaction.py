"""A key that a server quotes is in no error and no log record.

The check over the whole run (tests/secrets.py) inspects each of these errors as well.
"""

import json
import logging

import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    AuthenticationError,
    BedrockInferenceClient,
    ConnectionFailed,
    InferenceError,
    OpenAIInferenceClient,
    ProviderError,
    StreamInterrupted,
)
from asimov_sync.errors import AsimovError
from asimov_sync.inference.http.redaction import Headers, redact_error
from asimov_sync.inference.providers.errors import MESSAGE_CHARACTERS

from ..secrets import find_secret
from .byte_server import ByteServer, RawResponse
from .event_stream import exception

KEY = "sk-secret-0123456789"
QUOTED = f"the key {KEY} is not known"
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
EVENT_STREAM = {"content-type": "application/vnd.amazon.eventstream"}


def anthropic(server, **options):
    return AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, max_retries=0, **options)


def openai(server):
    return OpenAIInferenceClient(
        "m", api_key=KEY, api_url=server.url + "/chat/completions", max_retries=0
    )


def bedrock(server):
    return BedrockInferenceClient(
        "m", region_name="us-east-1", api_key=KEY, endpoint_url=server.url, max_retries=0
    )


def make_response(body, headers, status=200, **more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RawResponse(data, status=status, headers=dict(headers, **more), framing="length")


def event(body):
    return make_response(b"data: " + json.dumps(body).encode() + b"\n\n", SSE)


def exception_frame(name, message):
    return make_response(exception(name, message), EVENT_STREAM)


ERROR = {
    "type": "error",
    "error": {"type": "authentication_error " + KEY, "message": QUOTED},
    "request_id": "r-" + KEY,
}
CHAT_ERROR = {"error": {"message": QUOTED, "code": KEY}}
SERVERS = [
    ("an event of the Messages API", anthropic, event(ERROR)),
    ("a body of the Messages API", anthropic, make_response(ERROR, JSON)),
    (
        "a refusal of the Messages API",
        anthropic,
        make_response(ERROR, JSON, 401, **{"request-id": "r-" + KEY}),
    ),
    ("a chat chunk", openai, event(CHAT_ERROR)),
    ("a chat body", openai, make_response(CHAT_ERROR, JSON)),
    ("a chat refusal", openai, make_response(CHAT_ERROR, JSON, 401, **{"x-request-id": KEY})),
    ("an exception of Bedrock", bedrock, exception_frame("validationException " + KEY, QUOTED)),
    (
        "a refusal of Bedrock",
        bedrock,
        make_response({"message": QUOTED}, JSON, 403, **{"x-amzn-requestid": KEY}),
    ),
]


@pytest.mark.parametrize(
    "make, response", [case[1:] for case in SERVERS], ids=[case[0] for case in SERVERS]
)
def test_quoted_key_is_hidden(make, response):
    """A quoted key is removed from the message, error_type and request_id.

    This holds for events, bodies and frames with the status 200, and for error statuses.
    """
    with ByteServer(response) as server, pytest.raises(InferenceError) as caught:
        list(make(server).stream("hello"))
    assert "the key … is not known" in str(caught.value)
    assert find_secret(caught.value) is None


@pytest.mark.parametrize(
    "make, response, kind",
    [
        (anthropic, make_response(b"not JSON: " + KEY.encode(), JSON), ProviderError),
        (anthropic, make_response(b"\xff" + KEY.encode(), JSON), ProviderError),
        (
            anthropic,
            make_response(
                {"type": "message", "content": [{"type": "text", "text": {KEY: 1}}]}, JSON
            ),
            ProviderError,
        ),
        (
            anthropic,
            event({"type": "content_block_start", "index": KEY, "content_block": {}}),
            StreamInterrupted,
        ),
        (
            anthropic,
            make_response(b"data: " + KEY.encode() + b"\n\n", SSE, **{"request-id": KEY}),
            StreamInterrupted,
        ),
        (bedrock, make_response(KEY.encode(), JSON), ProviderError),
    ],
    ids=["text", "no UTF-8", "a name", "an index", "an event", "Bedrock"],
)
def test_key_in_an_unreadable_response(make, response, kind):
    """The parser's exception, which holds the whole response, is not chained."""
    with ByteServer(response) as server, pytest.raises(kind) as caught:
        make(server).generate("hello") if kind is ProviderError else list(
            make(server).stream("hello")
        )
    assert find_secret(caught.value) is None


def test_key_in_a_status_line():
    """The HTTP parser's error, which quotes the status line, is chained with the key removed."""
    import socket
    import threading

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)

    def reply():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"nonsense " + KEY.encode() + b"\r\n\r\n")

    thread = threading.Thread(target=reply)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with pytest.raises(ConnectionFailed) as caught:
        AnthropicInferenceClient("m", api_key=KEY, api_url=url, max_retries=0).generate("hello")
    thread.join()
    listener.close()
    assert caught.value.__cause__ is not None
    assert find_secret(caught.value) is None


def test_truncated_key():
    """A key that is truncated at MESSAGE_CHARACTERS is hidden as well."""
    for length in range(MESSAGE_CHARACTERS - len(KEY), MESSAGE_CHARACTERS - 5):
        error = {"type": "error", "error": {"type": "x", "message": "." * length + KEY + "…"}}
        with ByteServer(make_response(error, JSON, 400)) as server, pytest.raises(
            InferenceError
        ) as caught:
            anthropic(server).generate("hello")
        assert KEY[:6] not in str(caught.value)
    text = "." * (MESSAGE_CHARACTERS - 3) + "abc and more"
    assert Headers({"x-api-key": KEY}).redact(text) == text


def test_key_with_escapes():
    """A key that JSON or Python writes with escapes is hidden."""
    headers = Headers({"x-api-key": 'sk"secret\\0123'})
    for written in ('sk"secret\\0123', json.dumps('sk"secret\\0123'), repr('sk"secret\\0123')):
        assert "secret" not in headers.redact("the key " + written)


def test_redaction_follows_causes_and_contexts():
    """Redaction covers text and bytes in arguments and attributes of every chained exception."""
    cause = ValueError(KEY, 5)
    cause.line = KEY.encode()
    cause.__context__ = KeyError(KEY)
    cause.__context__.__cause__ = cause
    error = ProviderError(QUOTED, error_type=KEY, request_id=KEY, status=200)
    error.__cause__ = cause
    redact_error(error, Headers({"authorization": "Bearer " + KEY}).redact)
    assert find_secret(error) is None
    assert (error.status, cause.args, cause.line) == (200, ("…", 5), "…".encode())


@pytest.mark.parametrize(
    "make",
    [
        lambda key: AnthropicInferenceClient("m", api_key=key),
        lambda key: AnthropicInferenceClient("m", auth_token=key),
        lambda key: OpenAIInferenceClient("m", api_key=key),
        lambda key: BedrockInferenceClient("m", region_name="us-east-1", api_key=key),
    ],
    ids=["anthropic", "auth_token", "openai", "bedrock"],
)
def test_invalid_key_is_in_no_frame(make):
    """No variable of this library's frames, which error reporters show, holds the key."""
    with pytest.raises(AuthenticationError) as caught:
        make(KEY + "\n€")
    frames = [
        entry.frame
        for entry in caught.traceback
        if str(entry.frame.f_globals["__name__"]).startswith("asimov_sync.")
    ]
    assert len(frames) >= 2
    for frame in frames:
        assert KEY not in repr(
            {name: value for name, value in frame.f_locals.items() if name != "self"}
        )


def test_a_key_in_the_address_is_not_logged(caplog):
    """urllib3 logs the address at DEBUG without the query, which may hold a key."""
    caplog.set_level(logging.DEBUG)
    # Not KEY: the client keeps its address in an attribute, where tests/secrets.py would find KEY.
    key = "AIza-0123456789"
    with ByteServer(make_response(ERROR, JSON, 401)) as server, pytest.raises(AsimovError):
        AnthropicInferenceClient(
            "m", api_key=KEY, api_url=server.url + "?key=" + key, max_retries=0
        ).generate("hello")
    lines = [
        record.getMessage() for record in caplog.records if record.name == "urllib3.connectionpool"
    ]
    assert any("?…" in line for line in lines)
    assert not any(key in line for line in lines)
