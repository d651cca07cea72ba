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
from asimov_sync.messages import as_messages

from ..tiers import positions, suite, within
from ..waiting import Background, in_child
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
    """An answer that streams these texts, a write for each frame; the texts begin after the second
    and first frame.
    """
    made = list((invoke_events if api == "invoke" else converse_events)(*texts))
    return RawResponse(*made, headers=STREAM, **options)


def whole(api, text, **options):
    """An answer in one piece."""
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
"""How many frames come before the first text."""


@pytest.fixture
def nobody(monkeypatch):
    """An environment without any credentials and regions."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def serve():
    """Starts servers, and makes a client for each; all are closed after the test."""
    opened = []

    def start(*answers, **options):
        server = ByteServer(*answers)
        options = dict(
            {"api_key": KEY, "session": SESSION, "max_retries": 0, "model": MODEL}, **options
        )
        client = BedrockInferenceClient(endpoint_url=server.url, **options)
        opened.extend([client, server])
        return client, server

    yield start
    for one in opened:
        one.close()


# Before anything is sent


def test_the_seed_usage():
    """A client is made of these arguments; boto3 is not loaded before it is asked."""
    program = (
        "import sys\n"
        "from asimov_sync import BedrockInferenceClient\n"
        "client = BedrockInferenceClient(model='anthropic.claude-3', region_name='us-east-1')\n"
        "assert repr(client) == '<BedrockInferenceClient of anthropic.claude-3>'\n"
        "assert not {'boto3', 'botocore'} & set(sys.modules)\n"
    )
    subprocess.check_call([sys.executable, "-c", program])


def test_arguments_that_are_wrong():
    """An API that there is not, and a key that no header may hold, are errors at once; the key is
    not shown.
    """
    with pytest.raises(ValueError, match="invoke.*converse"):
        BedrockInferenceClient("m", api="chat")
    with pytest.raises(AuthenticationError, match="character") as caught:
        BedrockInferenceClient("m", api_key="key-é")
    assert "key-" not in str(caught.value)


def test_no_region(nobody, monkeypatch):
    """Without a region the error names the settings; $AWS_REGION and the session's region count."""
    with pytest.raises(ValueError, match="region_name.*AWS_REGION"):
        BedrockInferenceClient(MODEL, api_key=KEY).generate("hello")
    session = boto3.Session("a", "b", region_name="eu-west-3")
    named = BedrockInferenceClient(MODEL, session=session)
    assert named._runtime.client().meta.region_name == "eu-west-3"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert (
        BedrockInferenceClient(MODEL, api_key=KEY)._runtime.client().meta.region_name
        == "eu-central-1"
    )


@pytest.mark.parametrize("profile", [None, "not-there"])
def test_no_credentials(nobody, monkeypatch, profile):
    """Without credentials the error names the settings, or the unknown profile; no secret."""
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
    """A request that boto3 does not let through is an InvalidRequestError with its words."""
    client, server = serve(RawResponse(), model="")
    with pytest.raises(InvalidRequestError, match="modelId") as caught:
        client.generate("hello")
    assert caught.value.__context__ is None
    nowhere = BedrockInferenceClient(MODEL, region_name="not a region", api_key=KEY)
    with pytest.raises(InvalidRequestError, match="not a region"):
        nowhere.generate("hello")
    assert not server.requests


# What is sent


def signature(sent, access, secret):
    """AWS's signature, version 4, of a request, by its description and without botocore."""
    authorization = sent.headers["authorization"]
    signed = authorization.split("SignedHeaders=")[1].split(",")[0].split(";")
    day, region = sent.headers["x-amz-date"][:8], authorization.split("/")[2]
    scope = "/".join([day, region, "bedrock", "aws4_request"])
    lines = [sent.method, urllib.parse.quote(sent.path, safe="/~"), ""]
    lines += [name + ":" + " ".join(sent.headers[name].split()) for name in signed]
    lines += ["", ";".join(signed), hashlib.sha256(sent.body).hexdigest()]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    text = "\n".join(["AWS4-HMAC-SHA256", sent.headers["x-amz-date"], scope, digest])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("api", APIS)
def test_the_signature(serve, monkeypatch, api):
    """With credentials a request is signed, and arrives as it was signed; added headers are not,
    and may replace others.
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
    (sent,) = server.requests
    assert sent.headers["authorization"].endswith(
        "Signature=" + signature(sent, "AKIDEXAMPLE", SECRET)
    )
    assert sent.headers["x-amz-security-token"] == TOKEN
    assert (sent.headers["x-team"], sent.headers["user-agent"]) == ("blue", "mine")
    assert "x-team" not in sent.headers["authorization"]
    assert sent.headers["accept-encoding"] == "identity"


def test_request(serve):
    """The model is in the address, quoted; the body is that of the Messages API, with the version
    and the betas in it.
    """
    client, server = serve(whole("invoke", "a"), betas=("b-1", "b-2"))
    client.generate("hello", system="be brief", temperature=0.5)
    (sent,) = server.requests
    assert sent.path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke"
    assert json.loads(sent.body.decode()) == {
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
    """Only given options are sent to Converse; a boto3 without it gives an error."""
    client, server = serve(whole("converse", "a"), api="converse", betas=("b-1",))
    if "Converse" not in HAS:
        for ask in (client.generate, client.stream):
            with pytest.raises(InvalidRequestError, match=r'1\.34\.116.*api="invoke"'):
                ask("hello")
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
    ends = {
        "invoke": ["invoke", "invoke-with-response-stream"],
        "converse": ["converse", "converse-stream"],
    }[api]
    assert [sent.path.split("/")[-1] for sent in server.requests] == ends
    assert server.connections == 1


@pytest.mark.parametrize("how", ["given", "environment"])
@pytest.mark.parametrize("api", APIS)
def test_a_bearer_key(serve, monkeypatch, caplog, how, api):
    """A Bedrock API key goes in the Authorization header, needs no credentials, and is in no log,
    repr or error.
    """
    monkeypatch.setenv(
        "AWS_BEARER_TOKEN_BEDROCK", KEY if how == "environment" else "another-key-0123"
    )
    caplog.set_level(logging.DEBUG)
    client, server = serve(whole(api, "fine"), api=api, api_key=KEY if how == "given" else None)
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


def test_a_key_in_the_environment_can_be_declined(serve, monkeypatch):
    """api_key="" means the credentials, whatever the environment holds, on a boto3 that knows such
    keys, too.
    """
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    client, server = serve(whole("invoke", "fine"), api_key="")
    client.generate("hello")
    assert server.requests[0].headers["authorization"].startswith("AWS4-HMAC-SHA256 ")


def test_a_proxy_is_used():
    """Requests go over the proxy that is given."""
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


def test_the_authorities(monkeypatch, tmp_path):
    """$AWS_CA_BUNDLE names the authorities that are trusted."""
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


# Refusals


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


REFUSALS = [
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
@pytest.mark.parametrize("code, status, kind", REFUSALS, ids=str)
@pytest.mark.parametrize("where", ["header", "type", "code"])
def test_refusals(serve, code, status, kind, where):
    """Each of Bedrock's errors is ours of the same meaning, wherever its name stands, with no key
    in reach of it.
    """
    headers, body = {"x-amzn-RequestId": "req-1", "retry-after-ms": "70"}, {"message": "because"}
    if where == "header":
        headers["x-amzn-ErrorType"] = code + ":http://internal.amazon.com/"
    elif where == "type":
        body["__type"] = "com.amazon.coral.service#" + code
    else:
        body["code"] = code
    client, server = serve(
        RawResponse(json.dumps(body).encode(), status=status, headers=headers), api_key=""
    )
    for ask in (client.generate, client.stream):
        with pytest.raises(kind, match="because") as caught:
            ask("hello")
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
def test_odd_error_bodies(serve, body):
    """The status determines the error, whatever the body is."""
    client, _ = serve(RawResponse(body, status=403))
    with pytest.raises(PermissionDeniedError):
        client.generate("hello")


def test_the_words_of_a_refusal():
    """A prompt that is too long and an unknown model are recognised by the message."""
    assert type(
        decode_error(400, "ValidationException", "Input is too long for requested model.", None)
    ) is (ContextLengthExceeded)
    wrong = "The provided model identifier is invalid."
    assert type(decode_error(400, "ValidationException", wrong, None)) is NotFoundError


def test_one_place_counts_attempts(serve):
    """A throttled request is sent again by this library alone: max_retries times, and not by boto3
    as well.
    """
    refused = RawResponse(
        b"{}",
        status=429,
        headers={"x-amzn-errortype": "ThrottlingException", "retry-after-ms": "1"},
    )
    client, server = serve(refused, refused, whole("invoke", "at last"), refused, max_retries=2)
    assert client.generate("hello").text == "at last"
    assert len(server.requests) == 3
    with pytest.raises(RateLimitError) as caught:
        client.stream("hello")
    assert (len(server.requests), caught.value.attempts) == (6, 3)
    assert client._runtime.client().meta.config.retries["total_max_attempts"] == 1


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
    """An exception after the status 200 is raised as its error, with the partial reply and
    without boto3's exception.
    """
    before = streamed(api, "half").pieces[: FIRST[api] + 1]
    client, _ = serve(RawResponse(*before, exception(code, "because"), headers=STREAM), api=api)
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
    """A frame of the type "error" is the error of its code, with its words."""
    error = frame(b"", message_type="error", error_code="InternalFailure", error_message="because")
    client, _ = serve(RawResponse(*list(invoke_events("half"))[:3], error, headers=STREAM))
    with pytest.raises(ProviderError, match="because") as caught:
        list(client.stream("hello"))
    assert caught.value.error_type == "InternalFailure"
    assert caught.value.partial.text == "half"


class Pieces:
    """A body, in the pieces that it arrives in."""

    def __init__(self, *pieces):
        self._pieces = pieces

    def chunks(self):
        return iter(self._pieces)


def parsed(*pieces, fold=None):
    """The events of a stream that arrives in these pieces, of InvokeModel unless there is another
    fold.
    """
    fold = fold or InvokeFold("bedrock")
    return list(
        fold_stream(fold, read_events(Pieces(*pieces)), fold.feed, "bedrock", None, lambda: True)
    )


FOLDS = {"invoke": lambda: InvokeFold("bedrock"), "converse": lambda: ConverseFold("m", None)}


@suite
@pytest.mark.parametrize("api", list(FOLDS))
def test_cut_at_every_byte(api):
    """A stream of thirty events that is cut anywhere is StreamInterrupted, with all the text whose
    frames came whole.
    """
    texts = [f"{number} " for number in range(30 - len(streamed(api).pieces))]
    made = streamed(api, *texts).pieces
    assert len(made) == 30
    data = b"".join(made)
    ends = [len(b"".join(made[: number + 1])) for number in range(30)]
    for cut in positions(len(data)):
        with pytest.raises(StreamInterrupted) as caught:
            parsed(data[:cut], fold=FOLDS[api]())
        arrived = sum(end <= cut for end in ends)
        assert caught.value.text == "".join(texts[: max(0, arrived - FIRST[api])])
    assert parsed(data, fold=FOLDS[api]())[-1].reply.text == "".join(texts)


def test_split_at_every_byte():
    """A stream gives the same reply in any two pieces and byte by byte."""
    data = b"".join(invoke_events("hel", "lö"))
    reply = parsed(data)[-1].reply
    assert reply.text == "hellö"
    for place in range(len(data)):
        assert parsed(data[:place], data[place:])[-1].reply == reply
    assert parsed(*[data[place : place + 1] for place in range(len(data))])[-1].reply == reply


@suite
def test_every_byte_corrupted():
    """Whatever byte of a stream is wrong, it is StreamInterrupted, and never a reply with something
    else in it.
    """
    data = b"".join(invoke_events("hello"))
    for place in range(len(data)):
        wrong = bytearray(data)
        wrong[place] ^= 0x41
        with pytest.raises(StreamInterrupted) as caught:
            parsed(bytes(wrong))
        assert caught.value.text in ("", "hello")
        assert caught.value.__cause__.__cause__ is caught.value.__cause__.__context__ is None


ODD = [
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


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd[-60:]))
def test_odd_events(odd):
    """A complete frame without an event is a StreamInterrupted with the partial reply."""
    made = list(invoke_events("half"))
    with pytest.raises(StreamInterrupted) as caught:
        parsed(*made[:3], odd, *made[3:])
    assert caught.value.text == "half"
    assert isinstance(caught.value.__cause__, ProviderError)


def test_events_that_are_new():
    """An event of a kind that boto3 does not know is passed over."""
    made = list(invoke_events("all"))
    assert parsed(*made[:3], event("weather", {"sunny": True}), *made[3:])[-1].reply.text == "all"


@suite
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("api", APIS)
def test_a_connection_that_breaks(serve, api, framing, reset):
    """A stream whose connection ends early, between two frames or in one, is StreamInterrupted with
    what had arrived.
    """
    made = streamed(api, "one ", "two ", "three").pieces
    data = b"".join(made)
    ends = [len(b"".join(made[: number + 1])) for number in range(len(made))]
    client, server = serve(RawResponse(), api=api)
    for cut in sorted({place for end in ends[:-1] for place in (end - 1, end, end + 1)}):
        arrived = sum(end <= cut for end in ends) - FIRST[api]
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
        if not reset:  # which may overtake the last bytes
            assert caught.value.text == text
            assert caught.value.request_id == "req-1"


@pytest.mark.parametrize("api", APIS)
def test_the_connection_is_kept(serve, api):
    """A stream that was read to its end leaves its connection to the next request."""
    client, server = serve(streamed(api, "a"), api=api)
    for _ in range(3):
        list(client.stream("hello"))
    assert (server.connections, len(server.requests)) == (1, 3)


HOSTILE = [
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
@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:30]))
def test_answers_that_are_none(serve, api, body):
    """A status 200 without a message is a ProviderError that names the API and holds no boto3
    object.
    """
    client, _ = serve(RawResponse(body), api=api)
    with pytest.raises(ProviderError, match=f'api="{api}"') as caught:
        client.generate("hello")
    assert caught.value.status == 200
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_that_is_cut(serve, api, framing):
    """An answer that ends early is an error."""
    body = whole(api, "fine").pieces[0]
    client, _ = serve(
        RawResponse(body[:-9], framing=framing, length=len(body), reset=framing == "chunked"),
        api=api,
    )
    with pytest.raises((ConnectionFailed, ProviderError)):
        client.generate("hello")


# Time, and its end


@pytest.mark.parametrize("api", APIS)
def test_events_are_handed_on_as_they_arrive(serve, api):
    """A text arrives with its frame, while the stream is still open."""
    client, server = serve(streamed(api, "one", "two", hold=FIRST[api] + 1), api=api)
    stream = client.stream("hello")
    assert Background(next, stream).result(5) == TextDelta("one")
    assert server.holding.wait(5)
    stream.close()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("where", ["before the headers", "in the stream", "in the answer"])
def test_cancelling_frees_the_caller(serve, api, where):
    """A caller that waits is freed at once when it is cancelled from another thread, though the
    server holds on.
    """
    if where == "in the answer":
        client, server = serve(RawResponse(b"{", b"}", framing="length", hold=1), api=api)
    else:
        client, server = serve(
            streamed(api, "one", hold=-1 if where == "before the headers" else FIRST[api] + 1),
            api=api,
        )
    cancellation = Cancellation()
    ask = (
        client.generate
        if where == "in the answer"
        else lambda *args, **named: list(client.stream(*args, **named))
    )
    waiting = Background(ask, "hello", cancellation=cancellation)
    assert server.holding.wait(10)
    start = time.monotonic()
    cancellation.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        waiting.result()
    assert time.monotonic() - start < within(0.5)


@suite
@pytest.mark.parametrize("api", APIS)
def test_time_outs(serve, api):
    """A stream that goes quiet is an IdleTimeout, one that takes too long a DeadlineExceeded, both
    with what had come.
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
def test_an_answer_in_one_piece_takes_its_time(serve, api):
    """generate() waits longer than timeout.idle, since nothing can be heard before the reply is
    done; stream() does not.
    """
    client, server = serve(
        whole(api, "thought through", pause=0.7), api=api, timeout=Timeout(idle=0.2)
    )
    assert client.generate("hello").text == "thought through"
    with pytest.raises(IdleTimeout, match="0.2 s"):
        client.stream("hello")
    with pytest.raises(IdleTimeout, match="0.25 s"):  # 3600 s for 128,000 tokens
        client.with_options(timeout=Timeout(idle=0.25)).generate("hello", max_tokens=1)


def test_how_long_an_answer_may_take():
    """The idle limit is an hour for 128,000 tokens, ten minutes without a limit, and at least
    timeout.idle.
    """

    def idle_limit(timeout=None, **options):
        request = Request("m", [], None, [], options, timeout=timeout or Timeout())
        return whole_reply_timeout(request).idle

    assert idle_limit(max_tokens=128000) == 3600
    assert idle_limit(max_tokens=1) == Timeout().idle
    assert idle_limit() == 600
    assert idle_limit(Timeout(idle=None)) is None


# Threads, forks, twins


def test_threads_share_one_boto3_client(serve):
    """Threads that ask for the first time at once have one client of boto3 made, and their own
    answers.
    """
    client, server = serve(whole("invoke", "fine"))
    barrier = threading.Barrier(8)

    def ask():
        barrier.wait()
        assert client.generate("hello").text == "fine"
        return id(client._runtime.client())

    assert len({asking.result() for asking in [Background(ask) for _ in range(8)]}) == 1


def test_a_forked_child_has_its_own(serve):
    """A child that is forked after the first request, or while boto3's client is being made, makes
    its own.
    """
    client, server = serve(whole("invoke", "fine"))
    client.generate("hello")
    made = client._runtime.client()

    def ask():
        assert client._runtime._client is None
        assert client.generate("hello").text == "fine"
        assert client._runtime.client() is not made

    in_child(ask)
    with client._runtime._lock:
        in_child(ask)
    assert client.generate("hello").text == "fine"


def test_twins(serve):
    """A client made with_options shares boto3's client and the connections, and closes neither,
    whatever its time-outs.
    """
    client, server = serve(whole("invoke", "fine"))
    client.generate("hello")
    twin = client.with_options(temperature=0.5)
    twin.generate("hello")
    twin.close()
    hasty = client.with_options(timeout=Timeout(idle=7))
    hasty.generate("hello")
    assert server.connections == 1
    assert hasty._runtime is client._runtime
    assert client.usage.requests == 3


def test_tools_are_called(serve):
    """The tool loop goes over Bedrock as over any provider."""

    def add(a: int, b: int) -> int:
        return a + b

    content = [{"type": "tool_use", "id": "t", "name": "add", "input": {"a": 2, "b": 3}}]
    body = {"type": "message", "id": "m", "content": content, "stop_reason": "tool_use"}
    client, server = serve(RawResponse(json.dumps(body).encode()), whole("invoke", "five"))
    assert client.run_tools("2 + 3?", [add]).text == "five"
    sent = json.loads(server.requests[1].body.decode())
    assert sent["messages"][1:] == [
        {"role": "assistant", "content": content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "5"}]},
    ]


@pytest.mark.parametrize(
    "reporters",
    [{"anthropic": {"input_tokens": 3}}, {"amazon": {"inputTokenCount": 3}}, "both"],
    ids=str,
)
def test_usage_of_a_stream(reporters):
    """Missing figures are taken from Amazon's metrics; if both are present, the model's count."""
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
    reply = parsed(
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
    read = 0 if "anthropic" in reporters else 5
    assert reply.usage == Usage(
        input_tokens=3, output_tokens=2, cache_read_input_tokens=read, requests=1
    )


# Counting


@pytest.mark.parametrize("api", APIS)
def test_counting_tokens(serve, api):
    """CountTokens gets the request as it would be sent; a boto3 without it gives an error with the
    version.
    """
    client, server = serve(RawResponse(b'{"inputTokens": 17}'), api=api)
    request = Request(MODEL, as_messages("hello"), "be brief", [], {"max_tokens": 9})
    if "CountTokens" not in HAS:
        with pytest.raises(InvalidRequestError, match=r"count_tokens.*1\.40\.14"):
            client._count_tokens(request, Cancellation(), None)
        return
    assert client._count_tokens(request, Cancellation(), None) == 17
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
    for odd in (
        b"{}",
        b'{"inputTokens": -5}',
        b'{"inputTokens": 1.9}',
        b'{"inputTokens": true}',
        b'{"inputTokens": 1e999}',
    ):
        server.set_responses(RawResponse(odd))
        with pytest.raises(ProviderError, match="count"):
            client._count_tokens(request, Cancellation(), None)
