"""Shared parts of the clients of HTTP providers: keys, headers, and one attempt of a request."""

import abc
import json
import os
import time
from contextlib import contextmanager
from typing import Any, Callable, ClassVar, Dict, Iterator, Mapping, Optional, Tuple, TypeVar
from urllib.parse import urlsplit

from typing_extensions import Unpack

from asimov_sync._json import format_error, loads
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AuthenticationError, InferenceError, ProviderError
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.http.errors import public_address
from asimov_sync.inference.http.redaction import Headers, redact_errors
from asimov_sync.inference.http.response import Response
from asimov_sync.inference.http.sse import SSEParser
from asimov_sync.inference.http.transport import HttpTransport, Session
from asimov_sync.inference.options import ClientOptions
from asimov_sync.inference.providers.coerce import DECODE_ERRORS
from asimov_sync.inference.providers.errors import parse_error_body
from asimov_sync.inference.providers.fold import Fold, events_of, fold_stream
from asimov_sync.inference.reply_events import ReplyEvents
from asimov_sync.inference.request import Request
from asimov_sync.inference.retry import with_retry_headers
from asimov_sync.messages import Reply

__all__ = ["HttpInferenceClient", "NetworkClient", "check_url", "resolve_api_key"]

T = TypeVar("T")


class NetworkClient(InferenceClient):
    """A client with a transport, which clients made by `with_options` share."""

    request_id_header: ClassVar[str] = "request-id"
    _transport: HttpTransport

    def close(self) -> None:
        """Close the idle connections; see `InferenceClient.close`."""
        super().close()
        if self._owner:
            self._transport.close()

    def _decode_body(
        self, response: Response, decode: Callable[[Any], T], expected: str, hint: str
    ) -> T:
        """Read and decode a whole body; ProviderError if `decode` does not accept it.

        expected: the kind of body that is expected, for the error.
        hint: a question for the error: what may be wrong.
        """
        data = response.read()
        try:
            return decode(loads(data))
        except DECODE_ERRORS as error:
            reason = format_error(error)
        # Outside of the except: a JSON parser's exception holds the whole response.
        raise ProviderError(
            f"the response is not {expected} ({reason}); {hint}",
            provider=self.provider,
            status=response.status,
            request_id=response.headers.get(self.request_id_header),
        )


class HttpInferenceClient(NetworkClient):
    """Sends POST requests of JSON; the answers are server-sent events, or JSON.

    A provider implements its wire: `_encode`, `_decode`, `_new_fold` and `_decode_error`.
    """

    wire: ClassVar[str]
    """The wire's name, for the error about an address that speaks another one."""
    endpoint: ClassVar[str]
    """The usual end of the address, for the error about an address that does not exist."""

    def __init__(
        self,
        model: str,
        api_url: str,
        own_headers: Mapping[str, str],
        headers: Optional[Mapping[str, str]],
        proxies: Optional[Mapping[str, str]],
        session: Optional[Session],
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(model, **options)
        # The adapters of a session may serve other schemes, such as http+unix.
        prefixes = ("http://", "https://") if session is None else tuple(session.adapters)
        self.api_url = check_url("api_url", api_url, prefixes)
        # A compressed stream would arrive in the compressor's blocks and not event by event.
        self._headers = Headers(
            {"accept-encoding": "identity", "content-type": "application/json"}, **own_headers
        )
        self._headers.update((name.lower(), value) for name, value in (headers or {}).items())
        self._transport = HttpTransport(self.provider, proxies, session)

    # Implemented by a provider

    @abc.abstractmethod
    def _encode(self, request: Request) -> Dict[str, Any]:
        """Return the JSON body of a request for a stream."""

    @abc.abstractmethod
    def _decode(self, body: Any) -> Reply:
        """Return the reply of an answer that was not streamed.

        Raises one of DECODE_ERRORS if the body is not a reply, and the provider's own error if it
        came with the status 200.
        """

    @abc.abstractmethod
    def _new_fold(self) -> Fold:
        """Return a fold for the events of one stream."""

    @abc.abstractmethod
    def _decode_error(self, status: int, headers: Mapping[str, str], body: Any) -> InferenceError:
        """Return the error of a response whose status is not 200.

        body: decoded JSON, or text if it was not JSON.
        """

    # One attempt

    @contextmanager
    def _send(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> Iterator[ReplyEvents]:
        body = self._encode(request)
        with self._post(self.api_url, body, request, cancellation, deadline) as response:
            content_type = response.headers.get("content-type", "").lower()
            if content_type.startswith("text/event-stream"):
                fold = self._new_fold()
                response.is_body_done = lambda: fold.done
                events = fold_stream(
                    fold,
                    _sse_data(response),
                    fold.feed_text,
                    self.provider,
                    response.headers.get(self.request_id_header),
                    lambda: response.length_known,
                )
                yield ReplyEvents(events, fold.partial)
            else:
                reply = self._read(response, self._decode)
                yield ReplyEvents(events_of(reply), lambda: reply)

    @contextmanager
    def _post(
        self,
        url: str,
        body: Dict[str, Any],
        request: Request,
        cancellation: Cancellation,
        deadline: Optional[float],
    ) -> Iterator[Response]:
        """Send a request and yield its response, whose status is 200.

        body: the encoded request.

        Any other status is raised as its error. Errors raised in the `with` block show no key.
        """
        # A lone surrogate (of a file name, say) has no UTF-8 form; it is sent as a question mark.
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        with redact_errors(self._headers.redact):
            post = self._transport.post
            with post(url, self._headers, data, request, cancellation, deadline) as response:
                if response.status != 200:
                    error_body = parse_error_body(response.error_body())
                    error = self._decode_error(response.status, response.headers, error_body)
                    if response.status in (404, 405) and not self._is_usual_address():
                        error.args = (
                            f"{error.args[0]} (api_url is the whole address of the endpoint, and "
                            f"usually ends with {self.endpoint})",
                        )
                    raise with_retry_headers(error, response.headers, time.time())
                yield response

    def _is_usual_address(self) -> bool:
        return urlsplit(self.api_url).path.rstrip("/").endswith(self.endpoint)

    def _read(self, response: Response, decode: Callable[[Any], T]) -> T:
        """Read and decode a whole body; ProviderError if `decode` does not accept it."""
        return self._decode_body(
            response, decode, f"of {self.wire}", "does api_url name its endpoint?"
        )


def check_url(name: str, url: str, prefixes: Tuple[str, ...] = ("http://", "https://")) -> str:
    """Return an address. Raises ValueError if it is not a whole one; the error hides its query.

    name: the name of the argument, for the error.
    prefixes: one of these must be its beginning.
    """
    try:
        parts = urlsplit(url)
        parts.port  # raises ValueError if it is not a number
        valid = bool(parts.hostname) and url.lower().startswith(prefixes)
    except (AttributeError, TypeError, ValueError):  # not a str, or such as "http://[::1"
        valid = False
    if not valid:
        raise ValueError(
            f"{name} must be a whole address that begins with {' or '.join(prefixes)}, "
            f"not {public_address(str(url))!r}"
        )
    return url


def resolve_api_key(provider: str, key: Optional[str], variable: str) -> str:
    """Return the given key, or that of an environment variable; "" if there is neither.

    Raises AuthenticationError, which does not show the key, if an HTTP header cannot hold it. The
    caller then clears its own variables: debuggers and error reporters show those of every frame
    in the traceback.
    """
    resolved = (key if key is not None else os.environ.get(variable, "")).strip()
    if not (resolved.isascii() and resolved.isprintable()):
        # http.client would raise an error that shows the key.
        resolved = key = ""  # clears this frame's variables, see above
        raise AuthenticationError(
            "the API key holds a character that no HTTP header may hold", provider=provider
        )
    return resolved


def _sse_data(response: Response) -> Iterator[str]:
    """Yield the data of each event in the response's body; events without data are skipped."""
    parser = SSEParser()
    for chunk in response.chunks():
        for _name, data in parser.feed(chunk):
            if data:
                yield data
    for _name, data in parser.finish():
        if data:
            yield data
