"""Anthropic's Messages API, and whatever else speaks its wire, over HTTP."""

import json
import os
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AuthenticationError, ConnectionFailed, InferenceError, ProviderError, StreamInterrupted
from asimov_sync.inference.contract import InferenceClient
from asimov_sync.inference.messages_codec import MessagesFold, decode_error, decode_reply, encode_request
from asimov_sync.inference.request import Request, Timeout
from asimov_sync.inference.retry import retry_after
from asimov_sync.inference.sse import SSEParser
from asimov_sync.inference.transport import Exchange, HttpTransport
from asimov_sync.messages import Event, Reply, ReplyDone, TextDelta, ToolCallReady

__all__ = ["AnthropicInferenceClient"]

API_URL = "https://api.anthropic.com/v1/messages"
API_VERSION = "2023-06-01"


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
            raise AuthenticationError("the API key holds a character that no HTTP header may hold", provider=self.provider)
        self.api_url = api_url
        self._headers = _Headers(
            {"content-type": "application/json", "x-api-key": key, "anthropic-version": anthropic_version}
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
        body = json.dumps(dict(encode_request(request), stream=True), ensure_ascii=False).encode("utf-8")
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
        parser = SSEParser()
        interruption: Optional[InferenceError] = None
        try:
            for chunk in exchange.chunks():
                for told in parser.feed(chunk):
                    event = fold.feed(json.loads(told.data))
                    if event is not None:
                        exchange.complete = fold.done
                        yield event
                        if fold.done:
                            return
            for told in parser.finish():
                event = fold.feed(json.loads(told.data))
                if event is not None:
                    yield event
                    if fold.done:
                        return
        except (ConnectionFailed, KeyError, TypeError, ValueError) as broken:
            # A connection that broke, or an event that was cut or garbled: either way the rest is missing.
            interruption = broken if isinstance(broken, InferenceError) else _garbled(self.provider, broken)
        except InferenceError as failed:  # a time-out, or the provider's own error event
            failed.partial = fold.partial()
            failed.request_id = failed.request_id or exchange.headers.get("request-id")
            raise
        raise self._interrupted(fold, exchange, interruption)

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
            body = json.loads(data)
            if body["type"] == "error":
                raise decode_error(self.provider, exchange.status, exchange.headers, body)
            return decode_reply(body)
        except (KeyError, TypeError, ValueError) as wrong:
            raise ProviderError(
                "the response is not of the Messages API ({}: {}); does api_url name its endpoint?".format(
                    type(wrong).__name__, wrong
                ),
                provider=self.provider,
                status=exchange.status,
            ) from None

    def _refusal(self, exchange: Exchange) -> InferenceError:
        """The error of a response whose status is not 200."""
        body: Any = exchange.read().decode("utf-8", "replace")
        try:
            body = json.loads(body)
        except ValueError:
            pass
        error = decode_error(self.provider, exchange.status, exchange.headers, body)
        error.retry_after = retry_after(exchange.headers, time.time())
        error.should_retry = {"true": True, "false": False}.get(exchange.headers.get("x-should-retry", ""))
        return error

    def close(self) -> None:
        """Close the connections that nobody uses, and take no more tool calls."""
        super().close()
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


def _garbled(provider: str, error: Exception) -> InferenceError:
    return ProviderError("an event that cannot be read: {}: {}".format(type(error).__name__, error), provider=provider)
