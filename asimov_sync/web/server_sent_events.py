"""Server-sent events: each event of a stream as it is, for a page with JavaScript of its own."""

import re
from typing import Any, AsyncIterable, Dict, Iterable, Mapping, Optional, overload

from asimov_sync._json import format_error, to_jsonable
from asimov_sync.inference.tools.loop import ToolRunDone
from asimov_sync.messages import Event
from asimov_sync.web.body import KEEP_ALIVE, AsyncBody, Body, make_body
from asimov_sync.web.encoder import STREAM_HEADERS, AnyEvent, Encoder, frame, mask_error
from asimov_sync.web.reader import OnEnd

__all__ = ["SSE_HEADERS", "read_last_event_id", "sse"]

SSE_HEADERS: Dict[str, str] = dict(STREAM_HEADERS)
"""The headers of a response whose body is `sse(events)`."""

_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_NUMBER = re.compile(r"[0-9]{1,18}")


@overload
def sse(
    events: Iterable[Any],
    *,
    keep_alive: Optional[float] = ...,
    show_errors: bool = ...,
    on_end: OnEnd = ...,
) -> Body: ...


@overload
def sse(
    events: AsyncIterable[Any],
    *,
    keep_alive: Optional[float] = ...,
    show_errors: bool = ...,
    on_end: OnEnd = ...,
) -> AsyncBody: ...


def sse(
    events: Any,
    *,
    keep_alive: Optional[float] = KEEP_ALIVE,
    show_errors: bool = False,
    on_end: OnEnd = None,
) -> Any:
    """Encode events as server-sent events, the body of a streamed response.

    The field `event` is the type of the event, and `data` is its `to_dict()`, with the types of
    exceptions in place of their texts. A `tool_run_done` has no `messages` and no `calls`, since
    their contents were sent before. An event of a run has its
    number as its `id`, which a browser that reconnects sends back (see `read_last_event_id`). If
    the iterator raises, the last event is `error`, with `{"error": …}`.

    events: an iterator of events of any kind, of dicts such as those of `RunStore.events`, or an
        async iterator of these. Closing the body closes it.
    keep_alive: the seconds without an event after which a comment is sent; by default 2. It lets
        the server notice that the browser has left. With None there are none, and the events are
        read on the thread of the response.
    show_errors: send the messages of exceptions, those of tools and tasks too; by default only
        their types.
    on_end: called without arguments when the events have ended, and no exception ended them; for
        example to store the conversation. By default nothing is called.

    Returns an iterator of bytes, async if the events are, with `.headers` and `.close()`.
    """
    return make_body(events, _SSEEncoder(show_errors), SSE_HEADERS, keep_alive, on_end)


def read_last_event_id(value: Optional[str]) -> Optional[int]:
    """Return the number in the header `Last-Event-ID`, for `follow(…, after=…)`.

    value: the header as the browser sent it; None if there is none.

    Returns None for anything but a number of at most 18 digits.
    """
    match = _NUMBER.fullmatch(value.strip()) if value is not None else None
    return None if match is None else int(match.group())


class _SSEEncoder(Encoder):
    def __init__(self, show_errors: bool) -> None:
        self._show_errors = show_errors

    def start(self) -> bytes:
        """Return a comment, so that the browser knows at once that the response is open."""
        return b": open\n\n"

    def encode(self, event: AnyEvent) -> bytes:
        """Return an event with its type and, for an event of a run, its number."""
        if isinstance(event, ToolRunDone):
            run = event.run
            data = {"type": event.type, "run": {name: to_jsonable(vars(run)[name]) for name in RUN}}
        else:
            data = event.to_dict() if isinstance(event, Event) else to_jsonable(dict(event))
        if not self._show_errors:
            data = _mask_errors(data)
        event_type, number = str(data.get("type")), data.get("sequence")
        return frame(
            data,
            event_type if _TYPE.fullmatch(event_type) else "message",
            number if isinstance(number, int) else None,
        )

    def finish(self) -> bytes:
        """Return nothing: the last event tells that it is the last."""
        return b""

    def fail(self, error: BaseException) -> bytes:
        """Return the event `error`."""
        text = format_error(error)
        return frame(
            {"type": "error", "error": text if self._show_errors else mask_error(text)}, "error"
        )


def _mask_errors(data: Mapping[str, Any]) -> Dict[str, Any]:
    """Return an event with the types of its exceptions, where their messages were.

    An event has them in "error", that of a task in "task", and the result of a run in "errors".
    """
    masked = dict(data)
    if isinstance(data.get("error"), str):
        masked["error"] = mask_error(data["error"])
    if isinstance(data.get("task"), Mapping):
        masked["task"] = _mask_errors(data["task"])
    result = data.get("result")
    if data.get("type") == "run_finished" and isinstance(result, Mapping):
        errors = result.get("errors")
        if isinstance(errors, Mapping):
            types = {name: mask_error(str(error)) for name, error in errors.items()}
            masked["result"] = dict(result, errors=types)
    return masked


RUN = ("reply", "usage", "iterations", "stop_reason", "pending", "parsed")
"""The fields of a ToolRun that are sent."""
