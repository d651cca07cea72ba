"""A client that answers from a script, without a network: for unit tests of what is built on a client."""

import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.providers.anthropic.wire import MessagesFold, decode_error, encode_request
from asimov_sync.inference.reply_events import ReplyEvents
from asimov_sync.inference.request import Request
from asimov_sync.inference.retry import with_retry_headers
from asimov_sync.messages import Event, Reply
from asimov_sync.testing.script import Failure, Fault, Script, Scripted
from asimov_sync.testing.wires import MESSAGES

__all__ = ["ScriptedInferenceClient"]


class ScriptedInferenceClient(InferenceClient):
    """Answers each request with the next reply of a script, or with what a function makes of the request.

    Everything but the network is real: requests are encoded and replies are folded as for the Messages API. `requests` holds
    the bodies of the requests, in the order in which they came.
    """

    provider = "scripted"
    default_options = {"max_tokens": 4096}

    def __init__(self, answers: Scripted, model: str = "scripted", **options: Any) -> None:
        super().__init__(model, **options)
        self.requests: List[Dict[str, Any]] = []
        self._script = Script(answers)

    @contextmanager
    def _send(self, request: Request, cancellation: Cancellation, deadline: Optional[float]) -> Iterator[ReplyEvents]:
        cancellation.raise_if_cancelled()
        body = encode_request(request)
        self.requests.append(body)
        answer, fault = self._script.answer(body)
        if fault != Fault(answer):
            raise TypeError("a Fault is of the network, and there is none here: give it to a ModelServer")
        if isinstance(answer, Failure):
            error = decode_error(self.provider, answer.status, answer.headers, MESSAGES.failure_body(answer))
            raise with_retry_headers(error, answer.headers, time.time())
        fold = MessagesFold(self.provider)
        yield ReplyEvents(self._events(fold, answer, body, cancellation), fold.partial)

    def _events(self, fold: MessagesFold, answer: Reply, body: Dict[str, Any], cancellation: Cancellation) -> Iterator[Event]:
        for told in MESSAGES.reply_events(answer, body):
            cancellation.raise_if_cancelled()
            for event in fold.feed(told):
                yield event
