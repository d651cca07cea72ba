"""A key that a server quotes appears in no error and no log record.

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


def answer(body, headers, status=200, **more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RawResponse(data, status=status, headers=dict(headers, **more), framing="length")


def event(body):
    return answer(b"data: " + json.dumps(body).encode() + b"\n\n", SSE)


def exception_frame(name, message):
    return answer(exception(name, message), EVENT_STREAM)


ERROR = {
    "type": "error",
    "error": {"type": "authentication_error " + KEY, "message": QUOTED},
    "request_id": "r-" + KEY,
}
CHAT_ERROR = {"error": {"message": QUOTED, "code": KEY}}
SERVERS = [
    ("an event of the Messages API", anthropic, event(ERROR)),
    ("a body of the Messages API", anthropic, answer(ERROR, JSON)),
    (
        "a refusal of the Messages API",
        anthropic,
        answer(ERROR, JSON, 401, **{"request-id": "r-" + KEY}),
    ),
    ("a chat chunk", openai, event(CHAT_ERROR)),
    ("a chat body", openai, answer(CHAT_ERROR, JSON)),
    ("a chat refusal", openai, answer(CHAT_ERROR, JSON, 401, **{"x-request-id": KEY})),
    ("an exception of Bedrock", bedrock, exception_frame("validationException " + KEY, QUOTED)),
    (
        "a refusal of Bedrock",
        bedrock,
        answer({"message": QUOTED}, JSON, 403, **{"x-amzn-requestid": KEY}),
    ),
]


@pytest.mark.parametrize(
    "make, told", [one[1:] for one in SERVERS], ids=[one[0] for one in SERVERS]
)
def test_quoted_key_is_hidden(make, told):
    """In the message, the error_type and the request_id, of an event, a body or a frame with the
    status 200 as of a 401.
    """
    with ByteServer(told) as server, pytest.raises(InferenceError) as caught:
        list(make(server).stream("hello"))
    assert "the key … is not known" in str(caught.value)
    assert find_secret(caught.value) is None


@pytest.mark.parametrize(
    "make, told, kind",
    [
        (anthropic, answer(b"not JSON: " + KEY.encode(), JSON), ProviderError),
        (anthropic, answer(b"\xff" + KEY.encode(), JSON), ProviderError),
        (
            anthropic,
            answer({"type": "message", "content": [{"type": "text", "text": {KEY: 1}}]}, JSON),
            ProviderError,
        ),
        (
            anthropic,
            event({"type": "content_block_start", "index": KEY, "content_block": {}}),
            StreamInterrupted,
        ),
        (
            anthropic,
            answer(b"data: " + KEY.encode() + b"\n\n", SSE, **{"request-id": KEY}),
            StreamInterrupted,
        ),
        (bedrock, answer(KEY.encode(), JSON), ProviderError),
    ],
    ids=["text", "no UTF-8", "a name", "an index", "an event", "Bedrock"],
)
def test_key_in_an_unreadable_answer_is_hidden(make, told, kind):
    """The parser's exception, which holds the whole answer, is neither the cause nor the context of
    the error.
    """
    with ByteServer(told) as server, pytest.raises(kind) as caught:
        make(server).generate("hello") if kind is ProviderError else list(
            make(server).stream("hello")
        )
    assert find_secret(caught.value) is None


def test_a_key_in_a_status_line_is_hidden():
    """An error of the HTTP parser quotes the line, and is the cause of the ConnectionFailed."""
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


def test_a_key_that_is_cut_is_hidden():
    """A key that is cut at MESSAGE_CHARACTERS is hidden, too."""
    for before in range(MESSAGE_CHARACTERS - len(KEY), MESSAGE_CHARACTERS - 5):
        error = {"type": "error", "error": {"type": "x", "message": "." * before + KEY + "…"}}
        with ByteServer(answer(error, JSON, 400)) as server, pytest.raises(
            InferenceError
        ) as caught:
            anthropic(server).generate("hello")
        assert KEY[:6] not in str(caught.value)
    text = "." * (MESSAGE_CHARACTERS - 3) + "abc and more"
    assert Headers({"x-api-key": KEY}).redact(text) == text


def test_a_key_with_escapes_is_hidden():
    """A key that JSON or Python writes with escapes is found in that form."""
    headers = Headers({"x-api-key": 'sk"secret\\0123'})
    for written in ('sk"secret\\0123', json.dumps('sk"secret\\0123'), repr('sk"secret\\0123')):
        assert "secret" not in headers.redact("the key " + written)


def test_redaction_follows_causes_and_contexts():
    """Text and bytes in the arguments and attributes of every exception in the chain; other values
    are not touched.
    """
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
    """The variables of this library's frames, which debuggers and reporters of errors show, do not
    hold it.
    """
    with pytest.raises(AuthenticationError) as caught:
        make(KEY + "\n€")
    frames = [
        entry.frame
        for entry in caught.traceback
        if "asimov_sync" in str(entry.path) and "tests" not in str(entry.path)
    ]
    assert len(frames) >= 2
    for one in frames:
        assert KEY not in repr(
            {name: value for name, value in one.f_locals.items() if name != "self"}
        )


def test_a_key_in_the_address_is_not_logged(caplog):
    """urllib3 logs a request's address at DEBUG; the query, which may hold a key, is removed."""
    caplog.set_level(logging.DEBUG)
    key = "AIza-0123456789"  # not KEY, since an address is an attribute of its client
    with ByteServer(answer(ERROR, JSON, 401)) as server, pytest.raises(AsimovError):
        AnthropicInferenceClient(
            "m", api_key=KEY, api_url=server.url + "?key=" + key, max_retries=0
        ).generate("hello")
    lines = [
        record.getMessage() for record in caplog.records if record.name == "urllib3.connectionpool"
    ]
    assert any("?…" in line for line in lines)
    assert not any(key in line for line in lines)
