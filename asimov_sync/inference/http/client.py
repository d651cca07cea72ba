"""What the clients of HTTP providers have in common: keys and headers, one exchange an attempt, a stream or a whole answer."""

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
from asimov_sync.inference.http.redaction import redact_errors
from asimov_sync.inference.http.response import Exchange
from asimov_sync.inference.http.sse import SSEParser
from asimov_sync.inference.http.transport import HttpTransport, Session
from asimov_sync.inference.providers.errors import MESSAGE_CHARACTERS, as_body
from asimov_sync.inference.providers.fold import Fold, all_at_once, folded
from asimov_sync.inference.reply_events import ReplyEvents
from asimov_sync.inference.request import Request
from asimov_sync.inference.retry import with_retry_headers
from asimov_sync.messages import Reply

__all__ = ["Headers", "HttpInferenceClient", "NetworkClient", "key_of"]

T = TypeVar("T")
Networked = TypeVar("Networked", bound="NetworkClient")


class NetworkClient(InferenceClient):
    """A client whose requests go over a transport of this library's own, which twins with other time-outs do not share."""

    _transport: HttpTransport

    @abc.abstractmethod
    def _new_transport(self) -> HttpTransport:
        """A transport for the time-outs that this client has now."""

    def with_options(self: Networked, **options: Any) -> Networked:
        """This client with other options: the same connections, the same usage. None takes an option back."""
        twin = super().with_options(**options)
        if twin.timeout != self.timeout:
            twin._transport = twin._new_transport()
        return twin

    def close(self) -> None:
        """Close the connections that nobody uses, and take no more tool calls; nothing for a client made `with_options`."""
        super().close()
        if self._owner:
            self._transport.close()


class HttpInferenceClient(NetworkClient):
    """Asks over HTTP, with POST requests of JSON and server-sent events for answers.

    A provider brings its wire: `_encoded`, `_decoded`, `_fold` and `_error`.
    """

    wire: str
    """What the wire is called, for the error about an address that speaks another."""
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
        # Compressed, events would come in the compressor's blocks, and not one by one.
        self._headers = Headers({"accept-encoding": "identity", "content-type": "application/json"}, **own_headers)
        self._headers.update((name.lower(), value) for name, value in (headers or {}).items())
        self._proxies = dict(proxies or {})
        self._session = session
        self._transport = self._new_transport()

    def _new_transport(self) -> HttpTransport:
        return HttpTransport(self.provider, self.timeout, self._proxies, self._session)

    # What a provider brings

    @abc.abstractmethod
    def _encoded(self, request: Request) -> Dict[str, Any]:
        """The JSON body of a request for a stream."""

    @abc.abstractmethod
    def _decoded(self, body: Any) -> Reply:
        """The reply of an answer that came in one piece. ValueError, KeyError or TypeError where it is none.

        An error that the provider sent with the status 200 is raised.
        """

    @abc.abstractmethod
    def _fold(self) -> Fold:
        """A fold for the events of one stream."""

    @abc.abstractmethod
    def _error(self, status: int, headers: Mapping[str, str], body: Any) -> InferenceError:
        """The error that a refusal stands for; body: decoded JSON, or text."""

    # One attempt

    @contextmanager
    def _send(self, request: Request, cancellation: Cancellation, deadline: Optional[float]) -> Iterator[ReplyEvents]:
        with self._post(self.api_url, self._encoded(request), cancellation, deadline) as exchange:
            if exchange.headers.get("content-type", "").lower().startswith("text/event-stream"):
                fold = self._fold()
                exchange.complete = lambda: fold.done
                request_id = exchange.headers.get(self.request_id_header)
                events = folded(
                    fold, _server_sent(exchange), fold.feed_text, self.provider, request_id, lambda: exchange.delimited
                )
                yield ReplyEvents(events, fold.partial)
            else:
                reply = self._read(exchange, self._decoded)
                yield ReplyEvents(all_at_once(reply), lambda: reply)

    @contextmanager
    def _post(
        self, url: str, body: Dict[str, Any], cancellation: Cancellation, deadline: Optional[float]
    ) -> Iterator[Exchange]:
        """An exchange whose status is 200; anything else is raised as the error that it stands for.

        Errors that are raised while the exchange is used show no key.
        """
        # A lone surrogate (of a file name, say) has no UTF-8; a question mark in its place is better than no request.
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        with redact_errors(self._headers.hidden_in):
            with self._transport.post(url, self._headers, data, cancellation, deadline) as exchange:
                if exchange.status != 200:
                    error = self._error(exchange.status, exchange.headers, as_body(exchange.refusal()))
                    raise with_retry_headers(error, exchange.headers, time.time())
                yield exchange

    def _read(self, exchange: Exchange, decoded: Callable[[Any], T]) -> T:
        """The answer in one piece; ProviderError if it is not what `decoded` takes."""
        data = exchange.read()
        try:
            return decoded(loads(data.decode("utf-8")))
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as wrong:
            unread = format_error(wrong)
        # Outside of the except: the exception of a JSON parser holds the whole response.
        raise ProviderError(
            f"the response is not of {self.wire} ({unread}); does api_url name its endpoint?",
            provider=self.provider,
            status=exchange.status,
        )


KEY_HEADERS = ("authorization", "api-key", "x-api-key")
KEY_CHARACTERS = 6
"""What is shorter is no secret, and may be part of any word."""


class Headers(Dict[str, str]):
    """Request headers whose repr shows no value, since one of them is the key."""

    def hidden_in(self, message: str) -> str:
        """A provider's message without the keys in these headers: servers quote a key that they do not accept.

        A key is also found with escapes, as in JSON, and where a message that was too long was cut in the middle of it.
        """
        for name in KEY_HEADERS:
            key = self.get(name, "").rpartition(" ")[2]
            if len(key) >= KEY_CHARACTERS:
                message = _without_cut_key(message, key)
                for written in {key, repr(key)[1:-1], json.dumps(key)[1:-1]}:
                    message = message.replace(written, "…")
        return message

    def __repr__(self) -> str:
        return "<headers {}>".format(", ".join(self))


def _without_cut_key(message: str, key: str) -> str:
    """A message without the beginning of a key at the place where long messages are cut."""
    head, rest = message[:MESSAGE_CHARACTERS], message[MESSAGE_CHARACTERS:]
    if len(head) == MESSAGE_CHARACTERS:
        for length in range(len(key) - 1, KEY_CHARACTERS - 1, -1):
            if head.endswith(key[:length]) and not rest.startswith(key[length:]):
                return head[:-length] + "…" + rest
    return message


def key_of(provider: str, given: Optional[str], variable: str) -> str:
    """The key that was given, or that of an environment variable; "" where there is none.

    AuthenticationError, which does not show it, for one that no HTTP header may hold. The caller clears its own variables
    then: a debugger, or a reporter of errors, shows those of every frame in the traceback.
    """
    key = (given if given is not None else os.environ.get(variable, "")).strip()
    if not (key.isascii() and key.isprintable()):
        # Further down http.client would say so, and show the key.
        key = given = ""  # a debugger, or a reporter of errors, shows the variables of this frame
        raise AuthenticationError("the API key holds a character that no HTTP header may hold", provider=provider)
    return key


def _server_sent(exchange: Exchange) -> Iterator[str]:
    """The data of each event that the response's body brings; events without data are passed over."""
    parser = SSEParser()
    for chunk in exchange.chunks():
        for _name, data in parser.feed(chunk):
            if data:
                yield data
    for _name, data in parser.finish():
        if data:
            yield data
