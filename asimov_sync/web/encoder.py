"""Encoders: from the events of a stream to the bytes of a response, as server-sent events.

Pure: no IO, no clock.
"""

import abc
import json
import re
from typing import Any, Dict, List, Mapping, Optional, Union

from asimov_sync._json import loads, to_jsonable
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.inference.tools.loop import WITHHELD, Redact, apply_redact
from asimov_sync.messages import Event
from asimov_sync.web.fold import NO_RESULT, NOT_MADE, Fold
from asimov_sync.web.parts import CallFailed, CallReturned, Failed, Part, TaskChanged

__all__ = ["STREAM_HEADERS", "Encoder", "PartEncoder", "frame", "mask_error", "to_json"]

logger = get_logger("asimov_sync.web")

STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
"""Headers of a streamed response. The last one keeps nginx from holding events back."""

_ERROR_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*(?=: |$)")

to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

AnyEvent = Union[Event, Mapping[str, Any]]
"""An event, or a stored event of a run as a dict."""


def frame(data: Any, type: Optional[str] = None, id: Optional[int] = None) -> bytes:
    """Return a server-sent event.

    data: a value that JSON can hold. JSON has no line breaks, so no text in it can end the event.
    type, id: the fields `event` and `id`; by default without.
    """
    text = f"data: {to_json(data)}\n\n"
    if type is not None:
        text = f"event: {type}\n{text}"
    if id is not None:
        text = f"id: {id}\n{text}"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can hold
        return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match.group()):04x}", text).encode(
            "utf-8"
        )


def mask_error(error: str) -> str:
    """Return the type of an error of one line, without its message."""
    match = _ERROR_TYPE.match(error)
    return match.group() if match is not None else "an error"


class Encoder(abc.ABC):
    """Encodes one stream. Call `start`, then `encode` for each event, then `finish` or `fail`."""

    @abc.abstractmethod
    def start(self) -> bytes:
        """Return the first bytes, which are sent before the first event has arrived."""

    @abc.abstractmethod
    def encode(self, event: AnyEvent) -> bytes:
        """Return the bytes of an event, which may be none."""

    @abc.abstractmethod
    def finish(self) -> bytes:
        """Return the last bytes of a stream that has ended by itself."""

    @abc.abstractmethod
    def fail(self, error: BaseException) -> bytes:
        """Return the last bytes of a stream that has ended with an exception."""


class PartEncoder(Encoder):
    """Encodes the parts of a stream.

    show_errors: whether the browser receives the messages of exceptions; their types only if not.
    redact: applied to the text of each tool result and error; None for none.
    """

    def __init__(self, show_errors: bool, redact: Optional[Redact]) -> None:
        self._fold = Fold()
        self._show_errors = show_errors
        self._redact = redact

    @abc.abstractmethod
    def _begin(self) -> List[Dict[str, Any]]:
        """Return the first chunks."""

    @abc.abstractmethod
    def _encode(self, part: Part) -> List[Dict[str, Any]]:
        """Return the chunks of a part."""

    _trailer = b""
    """The last bytes of every stream."""

    def start(self) -> bytes:
        """Return the first chunks."""
        return b"".join(map(frame, self._begin()))

    def encode(self, event: AnyEvent) -> bytes:
        """Return the chunks of an event."""
        return self._frames(self._fold.add(event))

    def finish(self) -> bytes:
        """Return the last chunks."""
        return self._frames(self._fold.finish()) + self._trailer

    def fail(self, error: BaseException) -> bytes:
        """Return the last chunks after an exception."""
        return self._frames(self._fold.fail(error)) + self._trailer

    def _frames(self, parts: List[Part]) -> bytes:
        chunks = [chunk for part in parts for chunk in self._encode(self._protect(part))]
        return b"".join(map(frame, chunks))

    def _protect(self, part: Part) -> Part:
        """Return a part without what the browser must not receive."""
        if isinstance(part, CallReturned):
            return part if self._redact is None else part._replace(result=self._safe(part.result))
        if isinstance(part, (CallFailed, Failed)):
            return part._replace(error=self._error(part.error))
        if isinstance(part, TaskChanged) and "error" in part.details:
            error = self._error(part.details["error"])
            return part._replace(details=dict(part.details, error=error))
        return part

    def _error(self, error: str) -> str:
        if error in (NO_RESULT, NOT_MADE):
            return error
        return str(self._safe(error)) if self._show_errors else mask_error(error)

    def _safe(self, value: Any) -> Any:
        """Return a tool's result after `redact`: JSON again, or the text if it is not JSON now."""
        if self._redact is None:
            return value
        try:
            if isinstance(value, str):
                return apply_redact(value, self._redact)
            text = apply_redact(to_json(value), self._redact)
        except Exception as error:  # the value must not reach the browser unredacted
            logger.error("redact= failed with %s on a tool's result", type(error).__name__)
            return WITHHELD
        try:
            return to_jsonable(loads(text))
        except ValueError:
            return text
