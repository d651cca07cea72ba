"""Bedrock's runtime by way of boto3: the only file that imports boto3 and botocore, and it does so on the first call.

boto3 knows the requests, the addresses, the credentials and the signature. What it is not asked for is the HTTP response: it
cannot be cancelled, and has no total time. botocore's event `before-send` hands out the signed request and takes a response
for it, in place of sending it, so the response is made by the same transport as every other provider's. The response that
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

from asimov_sync.errors import (
    AsimovError,
    AuthenticationError,
    ConnectionFailed,
    InferenceError,
    InvalidRequestError,
    described,
)
from asimov_sync.foreign_json import parsed
from asimov_sync.forking import renew_in_child
from asimov_sync.inference.http.redaction import Headers, redact_errors
from asimov_sync.inference.http.response import Response
from asimov_sync.inference.providers.bedrock.errors import (
    PROVIDER,
    decode_error,
    decode_exception,
    decode_refusal,
)
from asimov_sync.inference.providers.coerce import as_str
from asimov_sync.inference.providers.errors import parse_error_body
from asimov_sync.inference.providers.fold import MalformedEvent
from asimov_sync.inference.retry import advised

if TYPE_CHECKING:
    from boto3 import Session as Session
else:
    Session = Any

__all__ = ["KEY_VARIABLE", "Runtime", "Session", "events"]

Post = Callable[[str, Headers, bytes], Response]

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
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
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
    def called(self, operation: str, parameters: Dict[str, Any], post: Post) -> Iterator[Response]:
        """Call an operation: the response by which it is answered, its status 200 and its body still to be read.

        post: sends a request that boto3 has made, and is given its address, its headers and its body. Raises what `post`
        raises, the error that a refusal stands for, or that of what boto3 lacks (credentials, the operation); ValueError
        without a region. Errors that are raised while the response is used show no key.
        """
        call = _Call(post)
        with redact_errors(call.headers.redact), self._called(operation, parameters, call) as response:
            yield response

    @contextmanager
    def _called(self, operation: str, parameters: Dict[str, Any], call: "_Call") -> Iterator[Response]:
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
            assert call.response is not None
            yield call.response
        finally:
            if call.response is not None:
                call.response.close()

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


# The response

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

    headers: those of its request; response: what it is answered by. Both are filled when the request is sent.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self.headers = Headers()
        self.response: Optional[Response] = None

    def send(self, request: Any) -> Response:
        """Send boto3's request. A status that is not 200 is raised as the error that it stands for.

        It shows no key from the start, since botocore logs it on its way to `Runtime.called`.
        """
        # Compressed, events would come in the compressor's blocks, and not one by one.
        headers = self.headers
        headers["accept-encoding"] = "identity"
        for name, value in request.headers.items():
            headers[name.lower()] = value.decode("utf-8") if isinstance(value, bytes) else value
        with redact_errors(headers.redact):
            response = self.response = self._post(request.url, headers, request.body or b"")
            if response.status != 200:
                error = decode_refusal(response.status, response.headers, parse_error_body(response.error_body()))
                raise advised(error, response.headers, time.time())
            return response


def _send(request: Any, **_: Any) -> Any:
    """botocore's handler for `before-send`, on the thread that calls boto3: what it returns takes the place of a response."""
    from botocore.awsrequest import AWSResponse

    response = _calling.call.send(request)
    return AWSResponse(request.url, response.status, {}, _NoBody())


class _NoBody:
    """The body that botocore is given to read."""

    def stream(self) -> Iterator[bytes]:
        return iter(())


def events(response: Response) -> Iterator[Any]:
    """The events of a stream, each as {name: payload}. What else it holds is raised: the provider's own error, or MalformedEvent."""
    from botocore.eventstream import EventStreamBuffer

    buffer = EventStreamBuffer()
    for chunk in response.chunks():
        buffer.add_data(chunk)
        while True:
            garbled = None
            try:
                frame = next(buffer, None)
                event = None if frame is None else _event(frame.headers, frame.payload)
            except InferenceError:
                raise
            except Exception as error:  # bytes that are no frame raise whatever comes of them in botocore's decoder
                garbled = MalformedEvent(f"an event that cannot be read: {described(error)}", provider=PROVIDER)
            if garbled is not None:
                raise garbled
            if event is None:
                break
            yield event


def _event(headers: Mapping[str, Any], payload: bytes) -> Dict[str, Any]:
    kind = headers.get(":message-type")
    if kind == "exception":
        raise decode_exception(as_str(headers.get(":exception-type")), parse_error_body(payload))
    if kind == "error":
        raise decode_exception(as_str(headers.get(":error-code")), as_str(headers.get(":error-message")))
    return {headers[":event-type"]: parsed(payload.decode("utf-8")) if payload else {}}


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
        return ConnectionFailed(f"no connection to what gives the credentials: {error}", provider=PROVIDER)
    if isinstance(error, tuple(getattr(exceptions, name) for name in _CREDENTIALS)):
        return AuthenticationError(f"boto3 has no credentials: {error}", provider=PROVIDER)
    if isinstance(error, exceptions.BotoCoreError):  # a parameter that is none, say, or a region
        return InvalidRequestError(f"boto3 does not make the request: {error}", provider=PROVIDER)
    return None


def _absent(operation: str) -> InvalidRequestError:
    import boto3

    instead = ', or use api="invoke"' if operation.startswith("converse") else ""
    return InvalidRequestError(
        f"boto3 {boto3.__version__} has no {operation}: install {SINCE.get(operation)} or newer{instead}",
        provider=PROVIDER,
    )
