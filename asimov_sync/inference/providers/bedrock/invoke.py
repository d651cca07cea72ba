"""Codec of Bedrock's InvokeModel for Anthropic's models: the Messages wire in another envelope.

Pure: no IO, no clock.

Facts: Amazon Bedrock's user guide, "Anthropic Claude Messages API"
(docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html), and
recorded traffic: each event of the stream is `{"bytes": …}`, base64 of an event of the Messages
API; there are no pings; `message_delta` counts output tokens only; and `message_stop` has Amazon's
own figures.
"""

import base64
import json
from typing import Any, Dict, Mapping, Sequence, Set

from asimov_sync._json import loads
from asimov_sync.inference.providers.anthropic.wire import MessagesFold, encode_request
from asimov_sync.inference.providers.coerce import as_count
from asimov_sync.inference.request import Request
from asimov_sync.messages import Event

__all__ = ["InvokeFold", "encode_body"]

_METRICS = "amazon-bedrock-invocationMetrics"
_FIGURES = {
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
}
"""Amazon's names of usage figures, and those of the Messages API."""


def encode_body(request: Request, anthropic_version: str, betas: Sequence[str]) -> bytes:
    """Return the body of an InvokeModel request.

    The model, and whether the reply is streamed, are part of the address.

    Raises TypeError for an option that the wire does not have.
    """
    body: Dict[str, Any] = {"anthropic_version": anthropic_version}
    if betas:
        body["anthropic_beta"] = list(betas)
    body.update(encode_request(request))
    del body["model"]
    # A lone surrogate (of a file name, say) has no UTF-8 form; it is sent as a question mark.
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


class InvokeFold(MessagesFold):
    """Folds the events of InvokeModelWithResponseStream, each as {name: payload}, to a Reply."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self._known: Set[str] = set()  # names of the figures that the model itself sent

    def feed(self, data: Mapping[str, Any]) -> Sequence[Event]:
        """Take a chunk and return its typed events; anything else has none."""
        if "chunk" not in data:
            return ()
        event = loads(base64.b64decode(data["chunk"]["bytes"]))
        kind = event["type"]
        if kind in ("message_start", "message_delta"):
            figures = (event["message"] if kind == "message_start" else event).get("usage")
            if isinstance(figures, dict):
                self._known.update(name for name, figure in figures.items() if figure is not None)
        elif kind == "message_stop":
            metrics = event.get(_METRICS)
            missing = {
                ours: as_count(metrics, theirs)
                for theirs, ours in _FIGURES.items()
                if ours not in self._known and as_count(metrics, theirs)
            }
            if missing:
                super().feed({"type": "message_delta", "usage": missing})
        return super().feed(event)
