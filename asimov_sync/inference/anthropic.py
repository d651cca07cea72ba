"""Anthropic's Messages API, and whatever else speaks its wire, over HTTP."""

import json
import os
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import (
    AuthenticationError,
    ConnectionFailed,
    InferenceError,
    ProviderError,
    StreamInterrupted,
    described,
)
from asimov_sync.inference.contract import InferenceClient
from asimov_sync.inference.messages_codec import MessagesFold, decode_error, decode_reply, encode_request
from asimov_sync.inference.request import Request, Timeout
from asimov_sync.inference.retry import advised
from asimov_sync.inference.sse import SSEParser
from asimov_sync.inference.transport import Exchange, HttpTransport
from asimov_sync.messages import Event, Reply, ReplyDone, TextDelta, ToolCallReady

__all__ = ["AnthropicInferenceClient"]

API_URL = "https://api.anthropic.com/v1/messages"
API_VERSION = "2023-06-01"
ERROR_BYTES = 65536
"""How much of an error's body is read."""


class AnthropicInferenceClient(InferenceClient):
    """Asks Anthropic's models, over the Messages API.

    api_key: $ANTHROPIC_API_KEY where not given; AuthenticationError without either. api_url: the whole address of the
    messages endpoint. anthropic_version: the API version header; betas: names for the anthropic-beta header.
    max_tokens, 4096 unless given, is the longest reply that is asked for.
    """

    provider = "anthropic"
    default_options = {"max_tokens": 4096}

    def __init__(
        self,
        model: str,
        api_key: Optional[str] = None,
        api_url: str = API_URL,
        max_retries: int = 2,
        timeout: Optional[Timeout] = None,
        anthropic_version: str = API_VERSION,
        betas: Iterable[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(model, max_retries, timeout, **options)
        key = (api_key if api_key is not None else os.environ.get("ANTHROPIC_API_KEY", "")).strip()
        if not key:
            raise AuthenticationError(
                "no API key: pass api_key=, or set the environment variable ANTHROPIC_API_KEY", provider=self.provider
            )
        if not (key.isascii() and key.isprintable()):
            # Further down http.client would say so, and show the key.
            key = api_key = ""  # a debugger, or a reporter of errors, shows the variables of this frame
            raise AuthenticationError("the API key holds a character that no HTTP header may hold", provider=self.provider)
        self.api_url = api_url
        self._headers = _Headers(
            # Compressed, events would come in the compressor's blocks, and not one by one.
            {
                "accept-encoding": "identity",
                "content-type": "application/json",
                "x-api-key": key,
                "anthropic-version": anthropic_version,
            }
        )
        if betas:
            self._headers["anthropic-beta"] = ",".join(betas)
        self._transport = HttpTransport(self.provider, self.timeout)

    def with_options(self, **options: Any) -> "AnthropicInferenceClient":
        """This client with other options: the same connections, the same usage. None takes an option back."""
        twin = super().with_options(**options)
        assert isinstance(twin, AnthropicInferenceClient)
        if twin.timeout != self.timeout:
            twin._transport = HttpTransport(self.provider, twin.timeout)
        return twin

    @contextmanager
    def _attempt(self, request: Request, cancellation: Cancellation, deadline: Optional[float]) -> Iterator[Iterator[Event]]:
        # A lone surrogate (of a file name, say) has no UTF-8; a question mark in its place is better than no request.
        body = json.dumps(dict(encode_request(request), stream=True), ensure_ascii=False).encode("utf-8", "replace")
        with self._transport.post(self.api_url, self._headers, body, cancellation, deadline) as exchange:
            if exchange.status != 200:
                raise self._refusal(exchange)
            if exchange.headers.get("content-type", "").startswith("text/event-stream"):
                yield self._events(exchange)
            else:
                yield _all_at_once(self._decoded(exchange))

    def _events(self, exchange: Exchange) -> Iterator[Event]:
        """The typed events of a stream; StreamInterrupted unless its own final event is among them."""
        fold = MessagesFold(self.provider)
        interruption: Optional[InferenceError] = None
        try:
            for told in _server_sent(exchange):
                event = self._folded(fold, told)
                if event is not None:
                    exchange.complete = fold.done
                    yield event
                    if fold.done:
                        return
        except (ConnectionFailed, _Garbled) as broken:
            # The connection broke, or an event was cut: either way the rest is missing.
            interruption = broken
        except InferenceError as failed:  # a time-out, or the provider's own error event
            failed.partial = fold.partial()
            failed.request_id = failed.request_id or exchange.headers.get("request-id")
            raise
        raise self._interrupted(fold, exchange, interruption)

    def _folded(self, fold: MessagesFold, data: str) -> Optional[Event]:
        try:
            return fold.feed(json.loads(data))
        except InferenceError:
            raise  # the provider's own error event
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as wrong:
            garbled = _Garbled("an event that cannot be read: {}".format(described(wrong)), provider=self.provider)
        raise garbled

    def _interrupted(
        self, fold: MessagesFold, exchange: Exchange, interruption: Optional[InferenceError]
    ) -> StreamInterrupted:
        partial = fold.partial()
        error = StreamInterrupted(
            "the stream ended before its final event, after {} characters of text{}".format(
                len(partial.text), ": {}".format(interruption) if interruption else ""
            ),
            provider=self.provider,
            status=exchange.status,
            request_id=exchange.headers.get("request-id"),
            partial=partial,
        )
        error.__cause__ = interruption
        return error

    def _decoded(self, exchange: Exchange) -> Reply:
        data = exchange.read()
        try:
            body = json.loads(data.decode("utf-8"))
            if body["type"] == "error":
                raise decode_error(self.provider, exchange.status, exchange.headers, body)
            return decode_reply(body)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as wrong:
            raise ProviderError(
                "the response is not of the Messages API ({}: {}); does api_url name its endpoint?".format(
                    type(wrong).__name__, wrong
                ),
                provider=self.provider,
                status=exchange.status,
            ) from None

    def _refusal(self, exchange: Exchange) -> InferenceError:
        """The error of a response whose status is not 200."""
        data = b""
        try:
            for chunk in exchange.chunks():
                data += chunk
                if len(data) > ERROR_BYTES:
                    break
        except InferenceError:
            pass  # the status says what is wrong, and its body is only more about it
        body: Any = data.decode("utf-8", "replace")
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            pass
        return advised(decode_error(self.provider, exchange.status, exchange.headers, body), exchange.headers, time.time())

    def close(self) -> None:
        """Close the connections that nobody uses, and take no more tool calls; nothing for a client made `with_options`."""
        super().close()
        if self._owner:
            self._transport.close()


class _Headers(Dict[str, str]):
    """Request headers whose repr shows no value, since one of them is the key."""

    def __repr__(self) -> str:
        return "<headers {}>".format(", ".join(self))


def _all_at_once(reply: Reply) -> Iterator[Event]:
    """The events of a reply that came in one piece, although a stream was asked for."""
    if reply.text:
        yield TextDelta(reply.text)
    for call in reply.tool_calls:
        yield ToolCallReady(call)
    yield ReplyDone(reply)


def _server_sent(exchange: Exchange) -> Iterator[str]:
    """The data of each event that the response's body brings; events without data are passed over."""
    parser = SSEParser()
    for chunk in exchange.chunks():
        for event in parser.feed(chunk):
            if event.data:
                yield event.data
    for event in parser.finish():
        if event.data:
            yield event.data


class _Garbled(ProviderError):
    """An event that is not of the wire; always the cause of a StreamInterrupted."""
