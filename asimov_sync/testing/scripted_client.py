"""A client that answers from a script, without a network, for unit tests."""

import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

from typing_extensions import Unpack

from asimov_sync.cancellation import Cancellation
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.options import MESSAGES_OPTIONS, MessagesClientOptions
from asimov_sync.inference.providers.anthropic.wire import (
    DEFAULT_MAX_TOKENS,
    MessagesFold,
    decode_error,
    encode_request,
)
from asimov_sync.inference.reply_events import ReplyEvents
from asimov_sync.inference.request import Request
from asimov_sync.inference.retry import with_retry_headers
from asimov_sync.messages import Event, Reply
from asimov_sync.testing.script import Answers, Failure, Fault, Script
from asimov_sync.testing.wires import MESSAGES

__all__ = ["ScriptedInferenceClient"]


class ScriptedInferenceClient(InferenceClient):
    """An inference client that answers each request with the next answer of a script.

    Only the network is missing: requests are encoded and replies are decoded as for the Messages
    API. The attribute `requests` lists the bodies of all requests, in order.

    answers: a list with one answer for each request, or a function from the request's body to its
        answer (see `asimov_sync.testing.script`). Requests beyond the list raise AssertionError.
    model: the model's name. Default: "scripted".
    options: options of `InferenceClient`.
    """

    provider = "scripted"
    default_options = {"max_tokens": DEFAULT_MAX_TOKENS}
    _option_names = MESSAGES_OPTIONS

    def __init__(
        self,
        answers: Answers,
        *,
        model: str = "scripted",
        **options: Unpack[MessagesClientOptions],
    ) -> None:
        super().__init__(model, **options)
        self.requests: List[Dict[str, Any]] = []
        self._script = Script(answers)

    @contextmanager
    def _send(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> Iterator[ReplyEvents]:
        cancellation.raise_if_cancelled()
        body = encode_request(request)
        self.requests.append(body)
        answer, fault = self._script.answer(body)
        if fault != Fault(answer):
            raise TypeError("a Fault needs a network: use a ModelServer")
        if isinstance(answer, Failure):
            failure_body = MESSAGES.failure_body(answer)
            error = decode_error(self.provider, answer.status, answer.headers, failure_body)
            raise with_retry_headers(error, answer.headers, time.time())
        fold = MessagesFold(self.provider)
        yield ReplyEvents(self._events(fold, answer, body, cancellation), fold.partial)

    def _events(
        self, fold: MessagesFold, answer: Reply, body: Dict[str, Any], cancellation: Cancellation
    ) -> Iterator[Event]:
        for data in MESSAGES.reply_events(answer, body):
            cancellation.raise_if_cancelled()
            for event in fold.feed(data):
                yield event
