"""The Bedrock client: a real boto3 on a real socket."""

import base64
import hashlib
import hmac
import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.parse

import boto3
import pytest

from asimov_sync import (
    AuthenticationError,
    BedrockInferenceClient,
    Cancellation,
    Cancelled,
    ConnectionFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    IdleTimeout,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
    StreamInterrupted,
    TextDelta,
    Timeout,
    Usage,
)
from asimov_sync.inference.providers.bedrock.client import whole_reply_timeout
from asimov_sync.inference.providers.bedrock.converse import ConverseFold
from asimov_sync.inference.providers.bedrock.errors import decode_error
from asimov_sync.inference.providers.bedrock.invoke import InvokeFold
from asimov_sync.inference.providers.bedrock.runtime import read_events
from asimov_sync.inference.providers.fold import fold_stream
from asimov_sync.inference.request import Request

from ..tiers import positions, suite, within
from ..waiting import DEADLINE, Background, in_child
from .byte_server import ByteServer, RawResponse
from .event_stream import chunk, event, exception, frame

SECRET, TOKEN, KEY = (
    "sk-secret/wJalrXUtnFEMI",
    "sk-secret-session-0123",
    "sk-secret-bedrock-0123456789",
)
MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
STREAM = {"content-type": "application/vnd.amazon.eventstream", "x-amzn-RequestId": "req-1"}

SESSION = boto3.Session("AKIDEXAMPLE", SECRET, TOKEN, region_name="us-east-1")
HAS = SESSION.client("bedrock-runtime").meta.service_model.operation_names
APIS = ["invoke", "converse"] if "Converse" in HAS else ["invoke"]


class RecordingSession(boto3.Session):
    """A session with credentials that records the boto3 clients created from it.

    before_client: called before each is created.
    """

    def __init__(self, before_client=lambda: None):
        super().__init__("AKIDEXAMPLE", SECRET, TOKEN, region_name="us-east-1")
        self.before_client = before_client
        self.clients = []

    def client(self, *args, **kwargs):
        self.before_client()
        client = super().client(*args, **kwargs)
        self.clients.append(client)
        return client


def invoke_events(*texts, stop="end_turn"):
    yield chunk(
        {
            "type": "message_start",
            "message": {"id": "m", "content": [], "usage": {"input_tokens": 3}},
        }
    )
    yield chunk(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    )
    for text in texts:
        yield chunk(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": text},
            }
        )
    yield chunk({"type": "content_block_stop", "index": 0})
    yield chunk(
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 2}}
    )
    yield chunk({"type": "message_stop"})


def converse_events(*texts, stop="end_turn"):
    yield event("messageStart", {"role": "assistant"})
    for text in texts:
        yield event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})
    yield event("contentBlockStop", {"contentBlockIndex": 0})
    yield event("messageStop", {"stopReason": stop})
    figures = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
    yield event("metadata", {"usage": figures, "metrics": {"latencyMs": 1}})


def streamed(api, *texts, **options):
    """Return a response that streams these texts, with one write for each frame."""
    frames = list((invoke_events if api == "invoke" else converse_events)(*texts))
    return RawResponse(*frames, headers=STREAM, **options)


def whole(api, text, **options):
    """Return a response with the whole reply."""
    if api == "invoke":
        content = [{"type": "text", "text": text}]
        body = {"type": "message", "id": "m", "content": content, "stop_reason": "end_turn"}
    else:
        message = {"role": "assistant", "content": [{"text": text}]}
        body = {
            "output": {"message": message},
            "stopReason": "end_turn",
            "metrics": {"latencyMs": 1},
        }
        body["usage"] = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
    return RawResponse(json.dumps(body).encode(), framing="length", **options)


FIRST = {"invoke": 2, "converse": 1}
"""The number of frames before the first text."""


@pytest.fixture
def without_credentials(monkeypatch):
    """An environment without AWS credentials and without a region."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def serve():
    """Start servers, each with a client. All are closed after the test."""
    resources = []

    def start(*answers, **options):
        server = ByteServer(*answers)
        options = dict(
            {"api_key": KEY, "session": SESSION, "max_retries": 0, "model": MODEL}, **options
        )
        client = BedrockInferenceClient(endpoint_url=server.url, **options)
        resources.extend([client, server])
        return client, server

    yield start
    for resource in resources:
        resource.close()


# Before the first request


def test_constructor():
    """A client takes a model and a region. boto3 is not imported before the first request."""
    program = (
        "import sys\n"
        "from asimov_sync import BedrockInferenceClient\n"
        "client = BedrockInferenceClient(model='anthropic.claude-3', region_name='us-east-1')\n"
        "assert repr(client) == '<BedrockInferenceClient of anthropic.claude-3>'\n"
        "assert not {'boto3', 'botocore'} & set(sys.modules)\n"
    )
    subprocess.check_call([sys.executable, "-c", program])


def test_invalid_arguments():
    """An unknown API, or a key with a character that no header may hold, is an error at once.

    The error does not show the key.
    """
    with pytest.raises(ValueError, match="invoke.*converse"):
        BedrockInferenceClient("m", api="chat")
    with pytest.raises(AuthenticationError, match="character") as caught:
        BedrockInferenceClient("m", api_key="key-é")
    assert "key-" not in str(caught.value)


def test_no_region(without_credentials):
    """Without a region the error names the settings: an argument, $AWS_REGION or the session."""
    with pytest.raises(ValueError, match="region_name.*AWS_REGION"):
        BedrockInferenceClient(MODEL, api_key=KEY).generate("hello")


def test_region(serve, without_credentials, monkeypatch):
    """The region is the argument's, else the session's, else $AWS_REGION."""

    def signed_region(**options):
        client, server = serve(whole("invoke", "fine"), api_key=None, **options)
        client.generate("hello")
        return server.requests[0].headers["authorization"].split("/")[2]

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    session = boto3.Session(region_name="eu-west-3")
    assert signed_region(session=session, region_name="eu-south-2") == "eu-south-2"
    assert signed_region(session=session) == "eu-west-3"
    assert signed_region(session=None) == "eu-central-1"


@pytest.mark.parametrize("profile", [None, "not-there"])
def test_no_credentials(without_credentials, monkeypatch, profile):
    """Without credentials the error names the settings, or the unknown profile, and no secret."""
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    with ByteServer(RawResponse()) as server:
        client = BedrockInferenceClient(MODEL, region_name="us-east-1", endpoint_url=server.url)
        with pytest.raises(
            AuthenticationError,
            match=profile or "AWS_ACCESS_KEY_ID.*api_key.*AWS_BEARER_TOKEN_BEDROCK",
        ) as caught:
            client.generate("hello")
        assert not server.requests
    assert (caught.value.__cause__, caught.value.__context__, caught.value.attempts) == (
        None,
        None,
        1,
    )


def test_parameters_rejected_by_boto3(serve):
    """A request that boto3 rejects is an InvalidRequestError with boto3's message."""
    client, server = serve(RawResponse(), model="")
    with pytest.raises(InvalidRequestError, match="modelId") as caught:
        client.generate("hello")
    assert caught.value.__context__ is None
    invalid_region = BedrockInferenceClient(MODEL, region_name="not a region", api_key=KEY)
    with pytest.raises(InvalidRequestError, match="not a region"):
        invalid_region.generate("hello")
    assert not server.requests


# Requests


def signature(request, access, secret):
    """Return the AWS signature, version 4, of a request.

    It follows AWS's description and does not use botocore.
    """
    authorization = request.headers["authorization"]
    signed = authorization.split("SignedHeaders=")[1].split(",")[0].split(";")
    day, region = request.headers["x-amz-date"][:8], authorization.split("/")[2]
    scope = "/".join([day, region, "bedrock", "aws4_request"])
    lines = [request.method, urllib.parse.quote(request.path, safe="/~"), ""]
    lines += [name + ":" + " ".join(request.headers[name].split()) for name in signed]
    lines += ["", ";".join(signed), hashlib.sha256(request.body).hexdigest()]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("api", APIS)
def test_signature(serve, monkeypatch, api):
    """With credentials a request is signed, and arrives exactly as it was signed.

    Additional headers are not signed, and may replace others.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    added = {"X-Team": "blue", "User-Agent": "mine"}
    client, server = serve(
        whole(api, "fine"),
        api=api,
        api_key=None,
        session=None,
        region_name="us-east-1",
        headers=added,
    )
    assert client.generate("hellö").text == "fine"
    (request,) = server.requests
    assert request.headers["authorization"].endswith(
        "Signature=" + signature(request, "AKIDEXAMPLE", SECRET)
    )
    assert request.headers["x-amz-security-token"] == TOKEN
    assert (request.headers["x-team"], request.headers["user-agent"]) == ("blue", "mine")
    assert "x-team" not in request.headers["authorization"]
    assert request.headers["accept-encoding"] == "identity"


def test_request(serve):
    """The model is in the path, quoted. The body is that of the Messages API, plus version and
    betas.
    """
    client, server = serve(whole("invoke", "a"), betas=("b-1", "b-2"))
    client.generate("hello", system="be brief", temperature=0.5)
    (request,) = server.requests
    assert request.path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke"
    assert json.loads(request.body.decode()) == {
        "anthropic_version": "bedrock-2023-05-31",
        "anthropic_beta": ["b-1", "b-2"],
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "hello"}],
        "system": "be brief",
        "temperature": 0.5,
    }
    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.m-v1:0"
    client.with_options(model=arn, max_tokens=7).generate("caf\udce9")
    assert server.requests[1].path == f"/model/{urllib.parse.quote(arn, safe='')}/invoke"
    assert b"caf?" in server.requests[1].body
    assert json.loads(server.requests[1].body.decode())["max_tokens"] == 7


def test_parameters_of_converse(serve):
    """Converse receives only the options that were given. A boto3 without Converse is an error."""
    client, server = serve(whole("converse", "a"), api="converse", betas=("b-1",))
    if "Converse" not in HAS:
        for send in (client.generate, client.stream):
            with pytest.raises(InvalidRequestError, match=r'1\.34\.116.*api="invoke"'):
                send("hello")
        return
    client.generate("hello")
    assert (
        server.requests[0].path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"
    )
    assert json.loads(server.requests[0].body.decode()) == {
        "messages": [{"role": "user", "content": [{"text": "hello"}]}],
        "additionalModelRequestFields": {"anthropic_beta": ["b-1"]},
    }
    with pytest.raises(InvalidRequestError, match="nonsense"):
        client.generate("hello", extra={"nonsense": 1})


@pytest.mark.parametrize("api", APIS)
def test_streamed_and_whole_requests(serve, api):
    """generate() requests a whole reply, stream() its events; both give the same reply."""
    client, server = serve(whole(api, "one two"), streamed(api, "one ", "two"), api=api)
    reply = client.generate("hello")
    stream = client.stream("hello")
    assert list(stream.text_stream) == ["one ", "two"]
    assert stream.reply.message == reply.message
    assert stream.reply.usage == Usage(input_tokens=3, output_tokens=2, requests=1)
    operations = {
        "invoke": ["invoke", "invoke-with-response-stream"],
        "converse": ["converse", "converse-stream"],
    }[api]
    assert [request.path.split("/")[-1] for request in server.requests] == operations
    assert server.connections == 1


@pytest.mark.parametrize("source", ["argument", "environment"])
@pytest.mark.parametrize("api", APIS)
def test_a_bearer_key(serve, monkeypatch, caplog, source, api):
    """A Bedrock API key is a bearer token and needs no credentials.

    It is in no log, repr or error.
    """
    monkeypatch.setenv(
        "AWS_BEARER_TOKEN_BEDROCK", KEY if source == "environment" else "another-key-0123"
    )
    caplog.set_level(logging.DEBUG)
    client, server = serve(
        whole(api, "fine"), api=api, api_key=KEY if source == "argument" else None
    )
    assert client.generate("hello").text == "fine"
    assert server.requests[0].headers["authorization"] == "Bearer " + KEY
    assert "botocore" in caplog.text
    assert KEY not in caplog.text
    assert KEY not in repr(client) + repr(vars(client))
    server.set_responses(RawResponse(b'{"message": "no"}', status=403))
    for kind in (PermissionDeniedError, ConnectionFailed):
        with pytest.raises(kind) as caught:
            client.generate("hello")
        assert not any(KEY in str(value) for value in values(caught.value))
        server.set_responses(RawResponse(b"{", framing="length", length=9, reset=True))


def test_empty_key_means_credentials(serve, monkeypatch):
    """api_key="" selects the credentials, even if the environment holds a key."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    client, server = serve(whole("invoke", "fine"), api_key="")
    client.generate("hello")
    assert server.requests[0].headers["authorization"].startswith("AWS4-HMAC-SHA256 ")


def test_proxy():
    """Requests pass through the given proxy."""
    with ByteServer(whole("invoke", "by proxy")) as proxy:
        client = BedrockInferenceClient(
            MODEL,
            region_name="us-east-1",
            api_key=KEY,
            endpoint_url="http://bedrock.invalid",
            proxies={"http": proxy.url},
        )
        assert client.generate("hello").text == "by proxy"
        assert proxy.requests[0].path.startswith("http://bedrock.invalid/model/")
        client.close()


def test_certificate_authorities(monkeypatch, tmp_path):
    """$AWS_CA_BUNDLE is the file of trusted certificate authorities."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    client = BedrockInferenceClient(
        MODEL,
        region_name="us-east-1",
        api_key=KEY,
        endpoint_url="https://127.0.0.1:1",
        max_retries=0,
    )
    with pytest.raises(ConnectionFailed, match="nowhere.pem"):
        client.generate("hello")


# Error statuses


def values(error):
    """Yield everything reachable from an exception: its chain, its attributes and their values."""
    seen, pending = set(), [error]
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, type):
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, BaseException):
            pending += [value.__cause__, value.__context__] + list(value.args)
        if isinstance(value, dict):
            pending += list(value.keys()) + list(value.values())
        elif isinstance(value, (list, tuple, set)):
            pending += list(value)
        elif hasattr(value, "__dict__"):
            pending += list(vars(value).values())


ERROR_STATUSES = [
    ("AccessDeniedException", 403, PermissionDeniedError),
    ("ValidationException", 400, InvalidRequestError),
    ("ResourceNotFoundException", 404, NotFoundError),
    ("ThrottlingException", 429, RateLimitError),
    ("ServiceQuotaExceededException", 400, RateLimitError),
    ("ModelTimeoutException", 408, ProviderError),
    ("ModelErrorException", 424, ProviderError),
    ("ModelNotReadyException", 429, OverloadedError),
    ("InternalServerException", 500, ProviderError),
    ("ServiceUnavailableException", 503, OverloadedError),
    ("ExpiredTokenException", 403, AuthenticationError),
    ("UnrecognizedClientException", 403, AuthenticationError),
    ("InvalidSignatureException", 403, AuthenticationError),
    ("SomethingNewException", 418, InvalidRequestError),
    ("SomethingNewException", 500, ProviderError),
]


@suite
@pytest.mark.parametrize("code, status, kind", ERROR_STATUSES, ids=str)
@pytest.mark.parametrize("position", ["header", "type", "code"])
def test_error_statuses(serve, code, status, kind, position):
    """Each of Bedrock's errors is raised as its class, wherever the response holds its name.

    No value that is reachable from the exception holds a key.
    """
    headers, body = {"x-amzn-RequestId": "req-1", "retry-after-ms": "70"}, {"message": "because"}
    if position == "header":
        headers["x-amzn-ErrorType"] = code + ":http://internal.amazon.com/"
    elif position == "type":
        body["__type"] = "com.amazon.coral.service#" + code
    else:
        body["code"] = code
    client, server = serve(
        RawResponse(json.dumps(body).encode(), status=status, headers=headers), api_key=""
    )
    for send in (client.generate, client.stream):
        with pytest.raises(kind, match="because") as caught:
            send("hello")
        error = caught.value
        assert type(error) is kind
        assert (error.status, error.error_type, error.request_id, error.retry_after) == (
            status,
            code,
            "req-1",
            0.07,
        )
        signature = server.requests[0].headers["authorization"].split("Signature=")[1]
        for value in values(error):
            assert not any(secret in str(value) for secret in (SECRET, TOKEN, signature))


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[1]", b'"text"', b"{", b"\xff", b'{"message": 7}', b"[" * 100000]
)
def test_error_bodies(serve, body):
    """The status determines the error, whatever its body is."""
    client, _ = serve(RawResponse(body, status=403))
    with pytest.raises(PermissionDeniedError):
        client.generate("hello")


def test_errors_recognized_by_their_message():
    """A prompt that is too long and an unknown model are recognized by the error message."""
    assert type(
        decode_error(400, "ValidationException", "Input is too long for requested model.", None)
    ) is (ContextLengthExceeded)
    message = "The provided model identifier is invalid."
    assert type(decode_error(400, "ValidationException", message, None)) is NotFoundError


def test_boto3_does_not_retry(serve):
    """Only this library retries a throttled request, max_retries times; boto3 does not."""
    throttled = RawResponse(
        b"{}",
        status=429,
        headers={"x-amzn-errortype": "ThrottlingException", "retry-after-ms": "1"},
    )
    session = RecordingSession()
    client, server = serve(
        throttled, throttled, whole("invoke", "at last"), throttled, max_retries=2, session=session
    )
    assert client.generate("hello").text == "at last"
    assert len(server.requests) == 3
    with pytest.raises(RateLimitError) as caught:
        client.stream("hello")
    assert (len(server.requests), caught.value.attempts) == (6, 3)
    assert [made.meta.config.retries["total_max_attempts"] for made in session.clients] == [1]


# Streams that fail

EXCEPTIONS = [
    ("throttlingException", RateLimitError),
    ("validationException", InvalidRequestError),
    ("internalServerException", ProviderError),
    ("modelStreamErrorException", ProviderError),
    ("modelTimeoutException", ProviderError),
    ("serviceUnavailableException", OverloadedError),
    ("accessDeniedException", PermissionDeniedError),
    ("somethingNewException", ProviderError),
]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("code, kind", EXCEPTIONS, ids=str)
def test_exceptions_in_a_stream(serve, api, code, kind):
    """An exception after the status 200 is raised as its error, with the partial reply.

    boto3's exception is not chained.
    """
    frames = streamed(api, "half").pieces[: FIRST[api] + 1]
    client, _ = serve(RawResponse(*frames, exception(code, "because"), headers=STREAM), api=api)
    stream = client.stream("hello")
    assert next(stream) == TextDelta("half")
    with pytest.raises(kind, match="because") as caught:
        next(stream)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.error_type, error.request_id) == (None, code, "req-1")
    assert (error.partial.text, error.partial.stop_reason) == ("half", None)
    assert (error.__cause__, error.__context__) == (None, None)


def test_an_error_frame(serve):
    """A frame of the type "error" is raised as the error of its code, with its message."""
    error = frame(b"", message_type="error", error_code="InternalFailure", error_message="because")
    client, _ = serve(RawResponse(*list(invoke_events("half"))[:3], error, headers=STREAM))
    with pytest.raises(ProviderError, match="because") as caught:
        list(client.stream("hello"))
    assert caught.value.error_type == "InternalFailure"
    assert caught.value.partial.text == "half"


class Pieces:
    """A response body that arrives in given pieces."""

    def __init__(self, *pieces):
        self._pieces = pieces

    def chunks(self):
        return iter(self._pieces)


def parse(*pieces, fold=None):
    """Return the events of a stream that arrives in these pieces.

    fold: InvokeModel's, by default.
    """
    fold = fold or InvokeFold("bedrock")
    return list(
        fold_stream(fold, read_events(Pieces(*pieces)), fold.feed, "bedrock", None, lambda: True)
    )


FOLDS = {"invoke": lambda: InvokeFold("bedrock"), "converse": lambda: ConverseFold("m", None)}


@suite
@pytest.mark.parametrize("api", list(FOLDS))
def test_cut_at_every_byte(api):
    """A stream that is cut anywhere is a StreamInterrupted with the text of all complete frames."""
    texts = [f"{number} " for number in range(30 - len(streamed(api).pieces))]
    frames = streamed(api, *texts).pieces
    assert len(frames) == 30
    data = b"".join(frames)
    frame_ends = [len(b"".join(frames[: number + 1])) for number in range(30)]
    for cut in positions(len(data)):
        with pytest.raises(StreamInterrupted) as caught:
            parse(data[:cut], fold=FOLDS[api]())
        arrived = sum(end <= cut for end in frame_ends)
        assert caught.value.text == "".join(texts[: max(0, arrived - FIRST[api])])
    assert parse(data, fold=FOLDS[api]())[-1].reply.text == "".join(texts)


def test_split_at_every_byte():
    """A stream that arrives in any two pieces, or byte by byte, gives the same reply."""
    data = b"".join(invoke_events("hel", "lö"))
    reply = parse(data)[-1].reply
    assert reply.text == "hellö"
    for position in range(len(data)):
        assert parse(data[:position], data[position:])[-1].reply == reply
    assert (
        parse(*[data[position : position + 1] for position in range(len(data))])[-1].reply == reply
    )


@suite
def test_every_byte_corrupted():
    """A stream with any byte changed is a StreamInterrupted, never a reply with other content."""
    data = b"".join(invoke_events("hello"))
    for position in range(len(data)):
        corrupted = bytearray(data)
        corrupted[position] ^= 0x41
        with pytest.raises(StreamInterrupted) as caught:
            parse(bytes(corrupted))
        assert caught.value.text in ("", "hello")
        assert caught.value.__cause__.__cause__ is caught.value.__cause__.__context__ is None


INVALID_EVENTS = [
    event("chunk", {"bytes": "bm90IGpzb24="}),
    event("chunk", {"bytes": "W10="}),
    event("chunk", {"bytes": "é"}),
    event("chunk", {"bytes": 7}),
    event("chunk", {}),
    event("chunk", []),
    frame(b"not json", event_type="chunk", message_type="event"),
    frame(b"\xff", event_type="chunk", message_type="event"),
    chunk(
        {"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "x"}}
    ),
    chunk({"type": "message_start", "message": None}),
    chunk(None),
    chunk({"completion": "of another wire"}),
]


@pytest.mark.parametrize("invalid", INVALID_EVENTS, ids=lambda frame: repr(frame[-60:]))
def test_invalid_events(invalid):
    """A complete frame without a valid event is a StreamInterrupted with the partial reply."""
    frames = list(invoke_events("half"))
    with pytest.raises(StreamInterrupted) as caught:
        parse(*frames[:3], invalid, *frames[3:])
    assert caught.value.text == "half"
    assert isinstance(caught.value.__cause__, ProviderError)


def test_unknown_events():
    """An event of a kind that boto3 does not know is ignored."""
    frames = list(invoke_events("all"))
    assert (
        parse(*frames[:3], event("weather", {"sunny": True}), *frames[3:])[-1].reply.text == "all"
    )


@suite
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("api", APIS)
def test_broken_connection(serve, api, framing, reset):
    """If the connection ends within the stream, StreamInterrupted holds the partial reply."""
    frames = streamed(api, "one ", "two ", "three").pieces
    data = b"".join(frames)
    frame_ends = [len(b"".join(frames[: number + 1])) for number in range(len(frames))]
    client, server = serve(RawResponse(), api=api)
    for cut in sorted(
        {position for end in frame_ends[:-1] for position in (end - 1, end, end + 1)}
    ):
        arrived = sum(end <= cut for end in frame_ends) - FIRST[api]
        text = "".join(("one ", "two ", "three")[: max(0, arrived)])
        broken = RawResponse(
            data[:cut], headers=STREAM, framing=framing, length=len(data), reset=reset
        )
        if framing == "chunked" and not reset:
            broken.framing = "close"
            broken.headers = dict(STREAM, **{"transfer-encoding": "chunked"})
            broken.pieces = (b"%x\r\n%s\r\n" % (cut, data[:cut]),)
        server.set_responses(broken)
        with pytest.raises((StreamInterrupted, ConnectionFailed)) as caught:
            list(client.stream("hello"))
        if not reset:  # a reset may discard the last bytes
            assert caught.value.text == text
            assert caught.value.request_id == "req-1"


@pytest.mark.parametrize("api", APIS)
def test_connection_reuse(serve, api):
    """After a stream that was read to its end, the next request uses the same connection."""
    client, server = serve(streamed(api, "a"), api=api)
    for _ in range(3):
        list(client.stream("hello"))
    assert (server.connections, len(server.requests)) == (1, 3)


INVALID_BODIES = [
    b"",
    b"null",
    b"7",
    b"[]",
    b"{}",
    b'"text"',
    b"not json",
    b"\xff",
    b"[" * 100000,
    b'{"completion": " Hi"}',
]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("body", INVALID_BODIES, ids=lambda body: repr(body[:30]))
def test_invalid_replies(serve, api, body):
    """A status 200 without a message is a ProviderError that names the API.

    No boto3 exception is chained.
    """
    client, _ = serve(RawResponse(body), api=api)
    with pytest.raises(ProviderError, match=f'api="{api}"') as caught:
        client.generate("hello")
    assert caught.value.status == 200
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_truncated_reply(serve, api, framing):
    """A whole reply that is truncated is an error."""
    body = whole(api, "fine").pieces[0]
    client, _ = serve(
        RawResponse(body[:-9], framing=framing, length=len(body), reset=framing == "chunked"),
        api=api,
    )
    with pytest.raises((ConnectionFailed, ProviderError)):
        client.generate("hello")


# Timeouts and cancellation


@pytest.mark.parametrize("api", APIS)
def test_each_event_is_yielded_when_it_arrives(serve, api):
    """A text is yielded when its frame has arrived, while the stream is still open."""
    client, server = serve(streamed(api, "one", "two", hold=FIRST[api] + 1), api=api)
    stream = client.stream("hello")
    assert Background(next, stream).result(5) == TextDelta("one")
    assert server.holding.wait(5)
    stream.close()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("phase", ["before the headers", "in the stream", "in the reply"])
def test_cancelling_a_blocked_call(serve, api, phase):
    """Cancelling from another thread ends a blocked call at once."""
    if phase == "in the reply":
        client, server = serve(RawResponse(b"{", b"}", framing="length", hold=1), api=api)
    else:
        client, server = serve(
            streamed(api, "one", hold=-1 if phase == "before the headers" else FIRST[api] + 1),
            api=api,
        )
    cancellation = Cancellation()
    send = (
        client.generate
        if phase == "in the reply"
        else lambda *args, **named: list(client.stream(*args, **named))
    )
    call = Background(send, "hello", cancellation=cancellation)
    assert server.holding.wait(10)
    start = time.monotonic()
    cancellation.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        call.result()
    assert time.monotonic() - start < within(0.5)


@suite
@pytest.mark.parametrize("api", APIS)
def test_stream_timeouts(serve, api):
    """A stream without events is an IdleTimeout, one that takes too long a DeadlineExceeded.

    Both hold the partial reply.
    """
    client, server = serve(streamed(api, "one", hold=FIRST[api] + 1), api=api)
    for timeout, kind in ((Timeout(idle=0.2), IdleTimeout), (Timeout(total=0.3), DeadlineExceeded)):
        start = time.monotonic()
        with pytest.raises(kind) as caught:
            Background(list, client.with_options(timeout=timeout).stream("hello")).result()
        assert time.monotonic() - start < 5
        assert caught.value.partial.text == "one"
        assert (caught.value.provider, caught.value.request_id) == ("bedrock", "req-1")


@suite
@pytest.mark.parametrize("api", APIS)
def test_generate_waits_longer_than_the_idle_timeout(serve, api):
    """generate() may wait longer than timeout.idle, since a whole reply arrives only at its end.

    stream() does not wait longer.
    """
    client, server = serve(
        whole(api, "thought through", pause=0.7), api=api, timeout=Timeout(idle=0.2)
    )
    assert client.generate("hello").text == "thought through"
    with pytest.raises(IdleTimeout, match="0.2 s"):
        client.stream("hello")
    with pytest.raises(IdleTimeout, match="0.25 s"):  # 3600 s for 128,000 tokens
        client.with_options(timeout=Timeout(idle=0.25)).generate("hello", max_tokens=1)


def test_idle_limit_of_generate():
    """The idle limit is proportional to max_tokens: an hour for 128,000 tokens.

    It is at least timeout.idle, and ten minutes without max_tokens.
    """

    def idle_limit(timeout=None, **options):
        request = Request("m", [], None, [], options, timeout=timeout or Timeout())
        return whole_reply_timeout(request).idle

    assert idle_limit(max_tokens=128000) == 3600
    assert idle_limit(max_tokens=1) == Timeout().idle
    assert idle_limit() == 600
    assert idle_limit(Timeout(idle=None)) is None


# Threads, forks, with_options


def test_threads_share_one_boto3_client(serve):
    """Threads that send the first requests at once share one boto3 client."""
    session = RecordingSession()
    client, server = serve(whole("invoke", "fine"), session=session)
    barrier = threading.Barrier(8)

    def send():
        barrier.wait()
        return client.generate("hello").text

    assert [call.result() for call in [Background(send) for _ in range(8)]] == ["fine"] * 8
    assert len(session.clients) == 1


def test_boto3_client_of_a_forked_child(serve):
    """A forked child creates its own boto3 client."""
    session = RecordingSession()
    client, server = serve(whole("invoke", "fine"), session=session)
    client.generate("hello")
    (parents,) = session.clients

    def send():
        assert client.generate("hello").text == client.generate("hello").text == "fine"
        assert len(session.clients) == 2

    in_child(send)
    assert client.generate("hello").text == "fine"
    assert session.clients == [parents]


def test_fork_while_a_boto3_client_is_created(serve):
    """A child creates its own boto3 client if a thread of the parent was creating one."""
    creating, forked, parent = threading.Event(), threading.Event(), os.getpid()

    def wait_in_parent():
        creating.set()
        assert os.getpid() != parent or forked.wait(DEADLINE)

    session = RecordingSession(before_client=wait_in_parent)
    client, server = serve(whole("invoke", "fine"), session=session)
    sending = Background(client.generate, "hello")
    assert creating.wait(DEADLINE)

    def send():
        assert client.generate("hello").text == "fine"
        assert len(session.clients) == 1

    in_child(send)
    forked.set()
    assert sending.result().text == "fine"


def test_with_options_shares_the_boto3_client(serve):
    """Clients from with_options share boto3's client and connections, and close neither.

    A client with another time-out has its own pool of connections.
    """
    session = RecordingSession()
    client, server = serve(whole("invoke", "fine"), session=session)
    client.generate("hello")
    variant = client.with_options(temperature=0.5)
    variant.generate("hello")
    variant.close()
    with_timeout = client.with_options(timeout=Timeout(idle=7))
    with_timeout.generate("hello")
    assert server.connections == 1
    assert len(session.clients) == 1
    assert client.usage.requests == 3


def test_tool_loop(serve):
    """run_tools calls tools and sends their results."""

    def add(a: int, b: int) -> int:
        return a + b

    content = [{"type": "tool_use", "id": "t", "name": "add", "input": {"a": 2, "b": 3}}]
    body = {"type": "message", "id": "m", "content": content, "stop_reason": "tool_use"}
    client, server = serve(RawResponse(json.dumps(body).encode()), whole("invoke", "five"))
    assert client.run_tools("2 + 3?", [add]).text == "five"
    body = json.loads(server.requests[1].body.decode())
    assert body["messages"][1:] == [
        {"role": "assistant", "content": content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "5"}]},
    ]


@pytest.mark.parametrize(
    "reporters",
    [{"anthropic": {"input_tokens": 3}}, {"amazon": {"inputTokenCount": 3}}, "both"],
    ids=str,
)
def test_usage_of_a_stream(reporters):
    """Amazon's metrics replace the figures that the model does not report."""
    start = {
        "id": "m",
        "content": [],
        "usage": {} if "amazon" in reporters else {"input_tokens": 3},
    }
    stop = {"type": "message_stop"}
    if "anthropic" not in reporters:
        stop["amazon-bedrock-invocationMetrics"] = {
            "inputTokenCount": 3 if "amazon" in reporters else 99,
            "outputTokenCount": 99,
            "cacheReadInputTokenCount": 5,
            "cacheWriteInputTokenCount": "many",
        }
    reply = parse(
        chunk({"type": "message_start", "message": start}),
        chunk(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 2},
            }
        ),
        chunk(stop),
    )[-1].reply
    cache_read = 0 if "anthropic" in reporters else 5
    assert reply.usage == Usage(
        input_tokens=3, output_tokens=2, cache_read_input_tokens=cache_read, requests=1
    )


# Token counts


@pytest.mark.parametrize("api", APIS)
def test_counting_tokens(serve, api):
    """CountTokens receives the same body as the request itself.

    A boto3 without CountTokens is an error that names the version.
    """
    client, server = serve(RawResponse(b'{"inputTokens": 17}'), api=api)

    def count():
        return client.count_tokens("hello", system="be brief", max_tokens=9)

    if "CountTokens" not in HAS:
        with pytest.raises(InvalidRequestError, match=r"count_tokens.*1\.40\.14"):
            count()
        return
    assert count() == 17
    assert server.requests[0].path.endswith("/count-tokens")
    counted = json.loads(server.requests[0].body.decode())["input"]
    if api == "invoke":
        body = json.loads(base64.b64decode(counted["invokeModel"]["body"]).decode())
        assert body["messages"] == [{"role": "user", "content": "hello"}]
        assert (body["max_tokens"], body["system"]) == (9, "be brief")
    else:
        assert counted["converse"] == {
            "messages": [{"role": "user", "content": [{"text": "hello"}]}],
            "system": [{"text": "be brief"}],
        }
    for invalid in (
        b"{}",
        b'{"inputTokens": -5}',
        b'{"inputTokens": 1.9}',
        b'{"inputTokens": true}',
        b'{"inputTokens": 1e999}',
    ):
        server.set_responses(RawResponse(invalid))
        with pytest.raises(ProviderError, match="count"):
            count()
