"""Events: the events of a run, as its log has them, as lines for a person."""

import datetime
from typing import Any, Dict, Mapping, Optional, Tuple

from asimov_sync.cli.output import Output, format_json, format_value
from asimov_sync.cli.records import STATUS_STYLES
from asimov_sync.cli.text import escape_line, shorten, shorten_name, width_of
from asimov_sync.display.words import format_seconds

__all__ = ["EventPrinter", "describe_event"]

NAME_COLUMNS = 24
"""The most columns that the name of a task takes."""

PROGRESS_SECONDS = 1.0
"""The seconds between two lines with the progress of a task."""

TEXT_CHARACTERS = 60
"""The length of a text that makes a line of its own."""

LINE_COLUMNS = 160
"""The most columns of a line that is not on a terminal, because a text may be long."""


class EventPrinter:
    """Prints each event of a run in one line: the time, the task, and what happened.

    The pieces of a text are joined, until there are enough for a line. Of the progress of a task,
    one line a second is shown.

    output: where to print.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._columns = 14
        self._shown: Dict[str, float] = {}  # when the progress of each task was shown last
        self._texts: Dict[str, Tuple[str, Any, Mapping[str, Any]]] = {}

    def print(self, event: Mapping[str, Any]) -> None:
        """Print an event, given as `RunStore.events` has it."""
        name = str(event.get("name", "the run"))
        if event.get("type") == "task_text":
            key = (event.get("attempt"), event.get("reply"))
            if self._texts.get(name, ("", key, event))[1] != key:
                self._print_text(name)  # the text of another reply
            text = self._texts.get(name, ("", key, event))[0] + str(event.get("text"))
            self._texts[name] = (text, key, event)
            if len(text) >= TEXT_CHARACTERS:
                self._print_text(name)
            return
        for other in list(self._texts) if event.get("type") == "run_finished" else [name]:
            self._print_text(other)
        if event.get("type") == "task_progress" and not self._is_due(name, event["time"]):
            return
        what = describe_event(event)
        if what:
            self._print_line(event, what)

    def _is_due(self, name: str, time: float) -> bool:
        """Return whether the progress of a task is shown again."""
        if time - self._shown.get(name, 0.0) < PROGRESS_SECONDS:
            return False
        self._shown[name] = time
        return True

    def _print_text(self, name: str) -> None:
        """Print the text that has arrived of a reply."""
        text, _, event = self._texts.pop(name, ("", None, {}))
        if text:
            self._print_line(event, describe_event(dict(event, text=text)))

    def _print_line(self, event: Mapping[str, Any], what: str) -> None:
        output = self._output
        moment = datetime.datetime.fromtimestamp(event["time"], datetime.timezone.utc)
        clock = moment.astimezone(datetime.timezone.utc if output.utc else None)
        name = shorten_name(escape_line(str(event.get("name", "the run"))), NAME_COLUMNS)
        self._columns = max(self._columns, width_of(name))
        space = " " * (self._columns - width_of(name))
        width = (output.width or LINE_COLUMNS) - self._columns - len("00:00:00    ")
        text = shorten(escape_line(what), max(20, width))
        output.write(
            output.style(clock.strftime("%H:%M:%S"), "dim")
            + f"  {name}{space}  {output.style(text, _style_of(event))}\n"
        )
        output.flush()


def describe_event(event: Mapping[str, Any]) -> str:
    """Return what happened in an event, as one line; empty for an event that is not shown.

    event: an event, as `RunStore.events` has it.
    """
    kind = event.get("type")
    if kind == "run_started":
        restored = len(event.get("restored") or ())
        more = f"; {restored} task{'s'[: restored != 1]} had ended before" if restored else ""
        return f"started{more}"
    if kind == "task_started":
        attempt = event.get("attempt") or 1
        return "started" + (f", attempt {attempt}" if attempt > 1 else "")
    if kind == "task_progress":
        return _describe_progress(event)
    if kind == "task_text":
        return f"> {event.get('text')}"
    if kind == "task_retried":
        return f"failed, again in {format_seconds(event.get('wait'))}: {event.get('error')}"
    if kind == "task_parked":
        return _describe_wait(event.get("wait") or {})
    if kind == "task_finished":
        return _describe_end(event)
    if kind == "task_skipped":
        return f"skipped: {event.get('reason')}"
    if kind == "task_undone":
        return f"undone: {event.get('reason')}"
    if kind == "run_finished":
        reason = event.get("reason")
        return str(event.get("status")) + (f": {reason}" if reason else "")
    return ""


STYLES: Mapping[str, str] = {
    "run_started": "bold",
    "task_progress": "dim",
    "task_text": "dim",
    "task_retried": "yellow",
    "task_parked": "magenta",
    "task_skipped": "yellow",
    "task_undone": "yellow",
}
"""The style of each type of event that has one."""


def _style_of(event: Mapping[str, Any]) -> Optional[str]:
    status = event.get("status") or (event.get("task") or {}).get("status")
    if event.get("type") in ("task_finished", "run_finished"):
        return STATUS_STYLES.get(str(status), "bold")
    return STYLES.get(str(event.get("type")))


def _describe_progress(event: Mapping[str, Any]) -> str:
    fraction: Optional[float] = event.get("fraction")
    parts = [] if fraction is None else [f"{fraction:.0%}"]
    if event.get("text"):
        parts.append(str(event["text"]))
    if event.get("data") is not None:
        parts.append(format_value(event["data"]))
    return " ".join(parts)


def _describe_wait(wait: Mapping[str, Any]) -> str:
    call = wait.get("call")
    if isinstance(call, dict):
        return f"waits for approval of {call.get('name')}({format_json(call.get('arguments'))})"
    prompt = f": {wait['prompt']}" if wait.get("prompt") else ""
    return f"waits for {wait.get('name')}{prompt}"


def _describe_end(event: Mapping[str, Any]) -> str:
    task = event.get("task") or {}
    status = str(task.get("status"))
    text = f"{status} after {format_seconds(event.get('seconds'))}"
    usage = event.get("usage") or {}
    tokens = sum(
        usage.get(name) or 0
        for name in (
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_write_input_tokens",
        )
    )
    if tokens:
        text += f", {tokens:,} tokens"
    if task.get("error"):
        text += f": {task['error']}"
    return text
