"""Shared parts of the clients of HTTP providers: keys, headers, and one attempt of a request."""

import abc
import json
import os
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, TypeVar

from asimov_sync._json import format_error, loads
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AuthenticationError, InferenceError, ProviderError
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.http.redaction import Headers, redact_errors
from asimov_sync.inference.http.response import Response
from asimov_sync.inference.http.sse import SSEParser
from asimov_sync.inference.http.transport import HttpTransport, Session
from asimov_sync.inference.providers.coerce import DECODE_ERRORS
from asimov_sync.inference.providers.errors import parse_error_body
from asimov_sync.inference.providers.fold import Fold, events_of, fold_stream
from asimov_sync.inference.reply_events import ReplyEvents
from asimov_sync.inference.request import Request
from asimov_sync.inference.retry import with_retry_headers
from asimov_sync.messages import Reply

__all__ = ["HttpInferenceClient", "NetworkClient", "resolve_api_key"]

T = TypeVar("T")
ClientT = TypeVar("ClientT", bound="NetworkClient")


class NetworkClient(InferenceClient):
    """A client with a transport of its own.

    Clients made by `with_options` share the transport unless their time-outs differ.
    """

    _transport: HttpTransport

    @abc.abstractmethod
    def _new_transport(self) -> HttpTransport:
        """Return a transport with this client's current time-outs."""

    def with_options(self: ClientT, **options: Any) -> ClientT:
        """Return this client with other options; it shares the connections and the usage.

        An option that is None is removed.
        """
        twin = super().with_options(**options)
        if twin.timeout != self.timeout:
            twin._transport = twin._new_transport()
        return twin

    def close(self) -> None:
        """Close the idle connections and accept no more tool calls.

        Does nothing on a client made by `with_options`.
        """
        super().close()
        if self._owner:
            self._transport.close()


class HttpInferenceClient(NetworkClient):
    """Sends POST requests of JSON; the answers are server-sent events, or JSON.

    A provider implements its wire: `_encode`, `_decode`, `_new_fold` and `_decode_error`.
    """

    wire: str
    """The wire's name, for the error about an address that speaks another one."""
    request_id_header = "request-id"

    def __init__(
        self,
        model: str,
        api_url: str,
        own_headers: Mapping[str, str],
        headers: Optional[Mapping[str, str]],
        proxies: Optional[Mapping[str, str]],
        session: Optional[Session],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(model, **options)
        self.api_url = api_url
        # A compressed stream would arrive in the compressor's blocks and not event by event.
        self._headers = Headers(
            {"accept-encoding": "identity", "content-type": "application/json"}, **own_headers
        )
        self._headers.update((name.lower(), value) for name, value in (headers or {}).items())
        self._proxies = dict(proxies or {})
        self._session = session
        self._transport = self._new_transport()

    def _new_transport(self) -> HttpTransport:
        return HttpTransport(self.provider, self.timeout, self._proxies, self._session)

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
        with self._post(self.api_url, body, cancellation, deadline) as response:
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
        cancellation: Cancellation,
        deadline: Optional[float],
    ) -> Iterator[Response]:
        """Send a request and yield its response, whose status is 200.

        Any other status is raised as its error. Errors raised in the `with` block show no key.
        """
        # A lone surrogate (of a file name, say) has no UTF-8 form; it is sent as a question mark.
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        with redact_errors(self._headers.redact):
            post = self._transport.post
            with post(url, self._headers, data, cancellation, deadline) as response:
                if response.status != 200:
                    error_body = parse_error_body(response.error_body())
                    error = self._decode_error(response.status, response.headers, error_body)
                    raise with_retry_headers(error, response.headers, time.time())
                yield response

    def _read(self, response: Response, decode: Callable[[Any], T]) -> T:
        """Read and decode a whole body; ProviderError if `decode` does not accept it."""
        data = response.read()
        try:
            return decode(loads(data))
        except DECODE_ERRORS as error:
            reason = format_error(error)
        # Outside of the except: a JSON parser's exception holds the whole response.
        raise ProviderError(
            f"the response is not of {self.wire} ({reason}); does api_url name its endpoint?",
            provider=self.provider,
            status=response.status,
        )


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
