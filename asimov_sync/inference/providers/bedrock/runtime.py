"""Bedrock's runtime by way of boto3: the only file that imports boto3 and botocore, and it does so on the first call.

boto3 knows the requests, the addresses, the credentials and the signature. What it is not asked for is the HTTP exchange: it
cannot be cancelled, and has no total time. botocore's event `before-send` hands out the signed request and takes a response
for it, in place of sending it, so the exchange is made by the same transport as every other provider's. The response that
botocore gets is empty, and the real one is read here: botocore drops what its version does not know (citations, the kind of a
tool call, the name of an exception in a stream), and its parser raises whatever comes of bytes that are of no wire.

Bearer keys are added there too, to a copy of the headers: every boto3 can use them, also one that is older than they are, and
botocore, which logs the headers that it knows, never sees them.
"""

import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Mapping, Optional

from asimov_sync._json import format_error, loads
from asimov_sync.concurrency.fork import reset_after_fork
from asimov_sync.errors import (
    AsimovError,
    AuthenticationError,
    ConnectionFailed,
    InferenceError,
    InvalidRequestError,
)
from asimov_sync.inference.http.client import Headers
from asimov_sync.inference.http.redaction import redact_errors
from asimov_sync.inference.http.response import Exchange
from asimov_sync.inference.providers.bedrock.errors import PROVIDER, decode_error, decode_exception, decode_refusal
from asimov_sync.inference.providers.coerce import text
from asimov_sync.inference.providers.errors import as_body
from asimov_sync.inference.providers.fold import Garbled
from asimov_sync.inference.retry import with_retry_headers

if TYPE_CHECKING:
    from boto3 import Session as Session
else:
    Session = Any

__all__ = ["KEY_VARIABLE", "Runtime", "Session", "events"]

Post = Callable[[str, Headers, bytes], Exchange]

KEY_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
SINCE = {"converse": "1.34.116", "converse_stream": "1.34.116", "count_tokens": "1.40.14"}
"""The first boto3 that has an operation, where that is not every one (its own list of changes)."""


class Runtime:
    """boto3's client of Bedrock's runtime: made once, at the first request, and anew in a forked child.

    boto3's sessions are not safe to be used by several threads; its clients are.
    """

    def __init__(
        self, region_name: Optional[str], endpoint_url: Optional[str], session: Optional[Session], signed: bool
    ) -> None:
        self._region_name = region_name
        self._endpoint_url = endpoint_url
        self._session = session
        self._signed = signed
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget the client, as in a forked child."""
        self._lock = threading.Lock()
        self._client: Any = None

    def client(self) -> Any:
        """The client. ValueError without a region."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self._made()
        return self._client

    @contextmanager
    def called(self, operation: str, parameters: Dict[str, Any], post: Post) -> Iterator[Exchange]:
        """Call an operation: the exchange by which it is answered, its status 200 and its body still to be read.

        post: sends a request that boto3 has made, and is given its address, its headers and its body. Raises what `post`
        raises, the error that a refusal stands for, or that of what boto3 lacks (credentials, the operation); ValueError
        without a region. Errors that are raised while the exchange is used show no key.
        """
        call = _Call(post)
        with redact_errors(call.headers.hidden_in), self._called(operation, parameters, call) as exchange:
            yield exchange

    @contextmanager
    def _called(self, operation: str, parameters: Dict[str, Any], call: "_Call") -> Iterator[Exchange]:
        failure = None
        _calling.call = call
        try:
            try:
                method = getattr(self.client(), operation, None)
                if method is None:
                    raise _absent(operation)
                method(**parameters)
            except AsimovError:
                raise
            except Exception as error:
                failure = _failure(error)
                if failure is None:
                    raise
            finally:
                _calling.call = None
            if failure is not None:
                raise failure  # outside of the except: botocore's errors hold requests
            assert call.exchange is not None
            yield call.exchange
        finally:
            if call.exchange is not None:
                call.exchange.close()

    def _made(self) -> Any:
        import boto3
        import botocore
        import botocore.config

        session = self._session if self._session is not None else boto3.Session()
        region = self._region_name or session.region_name or os.environ.get("AWS_REGION")
        if not region:
            raise ValueError("no region: pass region_name=, or set the environment variable AWS_REGION")
        config = botocore.config.Config(
            # "v4" said here keeps newer ones from taking a key from the environment by themselves.
            signature_version="v4" if self._signed else botocore.UNSIGNED,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        client = session.client("bedrock-runtime", region_name=region, endpoint_url=self._endpoint_url, config=config)
        client.meta.events.register("before-send.bedrock-runtime", _send)
        for name in _SHOWING_HEADERS:
            logging.getLogger(name).addFilter(_keyless)
        return client


# The exchange

_calling = threading.local()  # .call: what this thread asks boto3 for just now

_SHOWING_HEADERS = ("botocore.auth", "botocore.endpoint")
"""botocore's loggers that show the headers of a request at DEBUG, a session token among them."""


def _keyless(record: logging.LogRecord) -> bool:
    """Whether a record of botocore may be logged: none that shows a signed request of ours."""
    if getattr(_calling, "call", None) is None:
        return True
    told = record.getMessage().lower()
    return "authorization" not in told and "x-amz-security-token" not in told


class _Call:
    """One call of boto3's client.

    headers: those of its request; exchange: what it is answered by. Both are filled when the request is sent.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self.headers = Headers()
        self.exchange: Optional[Exchange] = None

    def send(self, request: Any) -> Exchange:
        """Send boto3's request. A status that is not 200 is raised as the error that it stands for.

        It shows no key from the start, since botocore logs it on its way to `Runtime.called`.
        """
        # Compressed, events would come in the compressor's blocks, and not one by one.
        headers = self.headers
        headers["accept-encoding"] = "identity"
        for name, value in request.headers.items():
            headers[name.lower()] = value.decode("utf-8") if isinstance(value, bytes) else value
        with redact_errors(headers.hidden_in):
            exchange = self.exchange = self._post(request.url, headers, request.body or b"")
            if exchange.status != 200:
                error = decode_refusal(exchange.status, exchange.headers, as_body(exchange.refusal()))
                raise with_retry_headers(error, exchange.headers, time.time())
            return exchange


def _send(request: Any, **_: Any) -> Any:
    """botocore's handler for `before-send`, on the thread that calls boto3: what it returns takes the place of a response."""
    from botocore.awsrequest import AWSResponse

    exchange = _calling.call.send(request)
    return AWSResponse(request.url, exchange.status, {}, _NoBody())


class _NoBody:
    """The body that botocore is given to read."""

    def stream(self) -> Iterator[bytes]:
        return iter(())


def events(exchange: Exchange) -> Iterator[Any]:
    """The events of a stream, each as {name: payload}. What else it holds is raised: the provider's own error, or Garbled."""
    from botocore.eventstream import EventStreamBuffer

    buffer = EventStreamBuffer()
    for chunk in exchange.chunks():
        buffer.add_data(chunk)
        while True:
            garbled = None
            try:
                frame = next(buffer, None)
                event = None if frame is None else _event(frame.headers, frame.payload)
            except InferenceError:
                raise
            except Exception as error:  # bytes that are no frame raise whatever comes of them in botocore's decoder
                garbled = Garbled("an event that cannot be read: {}".format(format_error(error)), provider=PROVIDER)
            if garbled is not None:
                raise garbled
            if event is None:
                break
            yield event


def _event(headers: Mapping[str, Any], payload: bytes) -> Dict[str, Any]:
    kind = headers.get(":message-type")
    if kind == "exception":
        raise decode_exception(text(headers.get(":exception-type")), as_body(payload))
    if kind == "error":
        raise decode_exception(text(headers.get(":error-code")), text(headers.get(":error-message")))
    return {headers[":event-type"]: loads(payload.decode("utf-8")) if payload else {}}


# Errors

_CREDENTIALS = (
    "ConfigNotFound",
    "ConfigParseError",
    "CredentialRetrievalError",
    "InvalidConfigError",
    "MetadataRetrievalError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "TokenRetrievalError",
    "UnknownCredentialError",
)
"""The exceptions of botocore that are about credentials, where it has some idea of them."""


def _failure(error: Exception) -> Optional[InferenceError]:
    """What an exception of boto3's amounts to; None for one that is a mistake of the caller's."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):  # of a service that was asked for credentials
        told, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        return decode_error(
            metadata.get("HTTPStatusCode"), told.get("Code"), str(told.get("Message") or ""), metadata.get("RequestId")
        )
    if isinstance(error, exceptions.NoCredentialsError):
        return AuthenticationError(
            "no credentials: configure AWS's own (AWS_ACCESS_KEY_ID, a profile, a role …), or pass api_key=, or set the "
            "environment variable " + KEY_VARIABLE,
            provider=PROVIDER,
        )
    if isinstance(error, exceptions.HTTPClientError):
        return ConnectionFailed("no connection to what gives the credentials: {}".format(error), provider=PROVIDER)
    if isinstance(error, tuple(getattr(exceptions, name) for name in _CREDENTIALS)):
        return AuthenticationError("boto3 has no credentials: {}".format(error), provider=PROVIDER)
    if isinstance(error, exceptions.BotoCoreError):  # a parameter that is none, say, or a region
        return InvalidRequestError("boto3 does not make the request: {}".format(error), provider=PROVIDER)
    return None


def _absent(operation: str) -> InvalidRequestError:
    import boto3

    instead = ', or use api="invoke"' if operation.startswith("converse") else ""
    return InvalidRequestError(
        "boto3 {} has no {}: install {} or newer{}".format(boto3.__version__, operation, SINCE.get(operation), instead),
        provider=PROVIDER,
    )
