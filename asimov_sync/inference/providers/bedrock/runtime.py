"""Bedrock's runtime through boto3. Only this file imports boto3 and botocore, on the first request.

boto3 builds and signs the requests, and finds addresses and credentials. It does not send them:
its HTTP exchange cannot be cancelled and has no total time-out. botocore's event `before-send`
passes the signed request to a handler and accepts a response in return, so the request is sent by
the same transport as for every other provider. botocore receives an empty response; the real one is
read here. botocore would drop fields that its version does not know (citations, the type of a tool
call, the name of an exception in a stream), and its parser raises arbitrary exceptions for
malformed bytes.

The handler also adds bearer keys, to a copy of the headers. So they work with releases of boto3
that do not support them, and botocore, which logs its headers, never sees them.
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
from asimov_sync.inference.http.redaction import Headers, redact_errors
from asimov_sync.inference.http.response import Response
from asimov_sync.inference.providers.bedrock.errors import (
    PROVIDER,
    decode_error,
    decode_exception,
    decode_response_error,
)
from asimov_sync.inference.providers.coerce import as_str
from asimov_sync.inference.providers.errors import parse_error_body
from asimov_sync.inference.providers.fold import MalformedEvent
from asimov_sync.inference.retry import with_retry_headers

if TYPE_CHECKING:
    from boto3 import Session as Session
else:
    Session = Any

__all__ = ["KEY_VARIABLE", "Runtime", "Session", "read_events"]

Post = Callable[[str, Headers, bytes], Response]

KEY_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
MIN_BOTO3 = {"converse": "1.34.116", "converse_stream": "1.34.116", "count_tokens": "1.40.14"}
"""The first boto3 with an operation (from its changelog); every version has the others."""


class Runtime:
    """boto3's client of Bedrock's runtime, created at the first request and again after a fork.

    boto3's sessions are not thread-safe; its clients are.

    signed: whether requests are signed with credentials; False if a key is sent instead.
    """

    def __init__(
        self,
        region_name: Optional[str],
        endpoint_url: Optional[str],
        session: Optional[Session],
        signed: bool,
    ) -> None:
        self._region_name = region_name
        self._endpoint_url = endpoint_url
        self._session = session
        self._signed = signed
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Discard the client, in a forked child."""
        self._lock = threading.Lock()
        self._client: Any = None

    def client(self) -> Any:
        """Return the client. ValueError without a region."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self._make_client()
        return self._client

    @contextmanager
    def invoke(self, operation: str, parameters: Dict[str, Any], post: Post) -> Iterator[Response]:
        """Call an operation and yield its response, whose status is 200 and whose body is unread.

        post: sends boto3's request, given its address, headers and body.

        Raises the errors of `post`, the error of any other status, and an error if boto3 lacks
        credentials or the operation; ValueError without a region. Errors raised in the `with`
        block show no key.
        """
        call = _PendingCall(post)
        with redact_errors(call.headers.redact), self._invoke(
            operation, parameters, call
        ) as response:
            yield response

    @contextmanager
    def _invoke(
        self, operation: str, parameters: Dict[str, Any], call: "_PendingCall"
    ) -> Iterator[Response]:
        failure = None
        _local.call = call
        try:
            try:
                method = getattr(self.client(), operation, None)
                if method is None:
                    raise _unsupported(operation)
                method(**parameters)
            except AsimovError:
                raise
            except Exception as error:
                failure = _translate_error(error)
                if failure is None:
                    raise
            finally:
                _local.call = None
            if failure is not None:
                raise failure  # outside of the except: botocore's errors hold the request
            assert call.response is not None
            yield call.response
        finally:
            if call.response is not None:
                call.response.close()

    def _make_client(self) -> Any:
        import boto3
        import botocore
        import botocore.config

        session = self._session if self._session is not None else boto3.Session()
        region = self._region_name or session.region_name or os.environ.get("AWS_REGION")
        if not region:
            raise ValueError(
                "no region: pass region_name=, or set the environment variable AWS_REGION"
            )
        config = botocore.config.Config(
            # An explicit "v4" keeps newer versions from using a key from the environment.
            signature_version="v4" if self._signed else botocore.UNSIGNED,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        client = session.client(
            "bedrock-runtime", region_name=region, endpoint_url=self._endpoint_url, config=config
        )
        client.meta.events.register("before-send.bedrock-runtime", _send)
        for name in _LOGGERS_WITH_HEADERS:
            logging.getLogger(name).addFilter(_hides_credentials)
        return client


# Sending

_local = threading.local()  # .call: the call that this thread makes through boto3

_LOGGERS_WITH_HEADERS = ("botocore.auth", "botocore.endpoint")
"""botocore's loggers that log a request's headers at DEBUG, with a session token among them."""


def _hides_credentials(record: logging.LogRecord) -> bool:
    """Log filter: drop botocore's records that show a signed request of this library."""
    if getattr(_local, "call", None) is None:
        return True
    message = record.getMessage().lower()
    return "authorization" not in message and "x-amz-security-token" not in message


class _PendingCall:
    """One call of boto3's client.

    headers, response: of its request; set when the request is sent.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self.headers = Headers()
        self.response: Optional[Response] = None

    def send(self, request: Any) -> Response:
        """Send boto3's request. A status other than 200 is raised as its error.

        The error is redacted here, because botocore logs it before `Runtime.invoke` receives it.
        """
        # A compressed stream would arrive in the compressor's blocks and not event by event.
        headers = self.headers
        headers["accept-encoding"] = "identity"
        for name, value in request.headers.items():
            headers[name.lower()] = value.decode("utf-8") if isinstance(value, bytes) else value
        with redact_errors(headers.redact):
            response = self.response = self._post(request.url, headers, request.body or b"")
            if response.status != 200:
                error = decode_response_error(
                    response.status, response.headers, parse_error_body(response.error_body())
                )
                raise with_retry_headers(error, response.headers, time.time())
            return response


def _send(request: Any, **_: Any) -> Any:
    """botocore's handler of `before-send`, on the thread that calls boto3.

    Returning a response keeps botocore from sending the request.
    """
    from botocore.awsrequest import AWSResponse

    response = _local.call.send(request)
    return AWSResponse(request.url, response.status, {}, _EmptyBody())


class _EmptyBody:
    """The empty body for botocore."""

    def stream(self) -> Iterator[bytes]:
        return iter(())


def read_events(response: Response) -> Iterator[Any]:
    """Yield the events of a stream, each as {name: payload}.

    Raises the provider's own error for an exception in the stream, and MalformedEvent for bytes
    that are not an event.
    """
    from botocore.eventstream import EventStreamBuffer

    buffer = EventStreamBuffer()
    for chunk in response.chunks():
        buffer.add_data(chunk)
        while True:
            malformed = None
            try:
                frame = next(buffer, None)
                event = None if frame is None else _decode_event(frame.headers, frame.payload)
            except InferenceError:
                raise
            except Exception as error:  # botocore's decoder raises arbitrary exceptions
                malformed = MalformedEvent(
                    f"an event that cannot be read: {format_error(error)}", provider=PROVIDER
                )
            if malformed is not None:
                raise malformed
            if event is None:
                break
            yield event


def _decode_event(headers: Mapping[str, Any], payload: bytes) -> Dict[str, Any]:
    kind = headers.get(":message-type")
    if kind == "exception":
        raise decode_exception(as_str(headers.get(":exception-type")), parse_error_body(payload))
    if kind == "error":
        raise decode_exception(
            as_str(headers.get(":error-code")), as_str(headers.get(":error-message"))
        )
    return {headers[":event-type"]: loads(payload) if payload else {}}


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
"""botocore's exceptions about credentials; older versions lack some of them."""


def _translate_error(error: Exception) -> Optional[InferenceError]:
    """Return the error for an exception of boto3; None for a mistake of the caller."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):  # of a service that issues credentials
        details = error.response.get("Error", {})
        metadata = error.response.get("ResponseMetadata", {})
        return decode_error(
            metadata.get("HTTPStatusCode"),
            details.get("Code"),
            str(details.get("Message") or ""),
            metadata.get("RequestId"),
        )
    if isinstance(error, exceptions.NoCredentialsError):
        return AuthenticationError(
            "no credentials: configure AWS's own (AWS_ACCESS_KEY_ID, a profile, a role …), or pass "
            f"api_key=, or set the environment variable {KEY_VARIABLE}",
            provider=PROVIDER,
        )
    if isinstance(error, exceptions.HTTPClientError):
        return ConnectionFailed(
            f"no connection to the service that issues credentials: {error}", provider=PROVIDER
        )
    if isinstance(error, tuple(getattr(exceptions, name) for name in _CREDENTIALS)):
        return AuthenticationError(f"boto3 has no credentials: {error}", provider=PROVIDER)
    if isinstance(error, exceptions.BotoCoreError):  # an invalid parameter or region, say
        return InvalidRequestError(f"boto3 does not make the request: {error}", provider=PROVIDER)
    return None


def _unsupported(operation: str) -> InvalidRequestError:
    import boto3

    instead = ', or use api="invoke"' if operation.startswith("converse") else ""
    return InvalidRequestError(
        f"boto3 {boto3.__version__} has no {operation}: "
        f"install {MIN_BOTO3.get(operation)} or newer{instead}",
        provider=PROVIDER,
    )
