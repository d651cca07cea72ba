"""Progress: draws the progress of a run, on a terminal or in a notebook.

On a terminal it draws on stderr: with tqdm a bar, without it lines. Elsewhere it draws nothing.
Only this file imports tqdm.

A thread of its own draws, so that a slow terminal delays neither tasks nor time-outs. It reads the
state of the run a few times a second, which costs the tasks nothing.
"""

import contextvars
import html
import math
import os
import shutil
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, TextIO, Tuple

from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.display.words import format_cost, format_tokens
from asimov_sync.errors import AsimovError, Cancelled, RunTimeout
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.snapshot import ActiveTask, RunSnapshot
from asimov_sync.tasks import TaskStatus

__all__ = ["Progress"]

logger = get_logger("asimov_sync.display")

BAR_INTERVAL, CELL_INTERVAL = 0.1, 0.2
"""Seconds between two drawings at least, on a terminal and in a notebook."""

LINE_INTERVAL, MAX_LINE_INTERVAL = 1.0, 30.0
"""Seconds before the first line, and at most before a later one; each wait is twice the last."""

MAX_SHARE = 0.05
"""The share of the time that reading the state of a very large run may take."""

CLOSE_SECONDS = 1.0
"""The longest wait, in seconds, for the drawing thread at the end; a terminal may be stopped."""

LINES_WIDTH = 120
"""The length of lines, and of the text in a notebook."""

BAR, BAR_WIDTH = "|{bar:10}| ", 13
"""The bar in a format of tqdm, and how many characters it takes."""

FULL_WIDTH = 60
"""The width from which on the bar itself and the name of the graph are shown."""

SHOWN_NAMES = 3
"""The number of failed and parked tasks that the last line names."""

NAME_LENGTH = 32
"""The length to which names and texts of tasks are shortened."""


class Progress:
    """Draws the progress of a run, as long as the `with` block runs.

    snapshot: returns the present state of the run.
    hint: where the results of an interrupted run are.

    result: set it to the result of the run, for the last line.
    """

    def __init__(self, snapshot: Callable[[], RunSnapshot], hint: str) -> None:
        self.result: Optional[RunResult] = None
        self._snapshot = snapshot
        self._hint = hint
        self._screen: Optional[_Screen] = None
        self._end = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def __enter__(self) -> "Progress":
        try:
            first = self._snapshot()
            self._screen = _open_screen(first)
            if self._screen is not None:
                # A notebook finds the cell of an output by the context.
                draw = contextvars.copy_context().run
                self._thread = threading.Thread(
                    target=draw, args=(self._draw,), name="asimov-progress", daemon=True
                )
                self._thread.start()
        except Exception:  # a display must not affect the run
            self._give_up()
        except BaseException:  # Ctrl-C: nothing calls __exit__
            self._end.set()
            raise
        return self

    def __exit__(self, kind: Any, error: Optional[BaseException], traceback: Any) -> None:
        self._end.set()
        if self._thread is None:
            return
        self._thread.join(CLOSE_SECONDS)
        screen = self._screen
        if screen is None or self._thread.is_alive():  # it failed, or the terminal is stopped
            return
        try:
            last = self._snapshot()
            screen.close(last, describe_end(last, self.result, error, self._hint))
        except Exception:
            self._give_up()

    def _draw(self) -> None:
        """Draw until the end. Runs on a thread of its own."""
        screen = self._screen
        assert screen is not None
        pause = screen.next_interval()
        while not self._end.wait(pause):
            try:
                start = time.perf_counter()
                snapshot = self._snapshot()
                pause = (time.perf_counter() - start) / MAX_SHARE
                if snapshot.over:
                    return
                screen.show(snapshot)
            except Exception:
                self._give_up()
                return
            pause = max(pause, screen.next_interval())

    def _give_up(self) -> None:
        self._screen = None
        logger.info("the progress cannot be drawn any more", exc_info=True)


# Screens


class _Screen:
    """Draws in one place.

    first: the state of the run when the drawing began.
    """

    def __init__(self, first: RunSnapshot) -> None:
        self.first = first

    def next_interval(self) -> float:
        """Return the seconds to wait before the next drawing."""
        raise NotImplementedError

    def show(self, snapshot: RunSnapshot) -> None:
        """Draw the present state."""
        raise NotImplementedError

    def close(self, snapshot: RunSnapshot, text: str) -> None:
        """Draw the last line."""
        raise NotImplementedError


class _Lines(_Screen):
    """Lines of text, fewer and fewer of them."""

    def __init__(self, stream: TextIO, first: RunSnapshot) -> None:
        super().__init__(first)
        self._stream = stream
        self._interval = LINE_INTERVAL / 2

    def next_interval(self) -> float:
        self._interval = min(MAX_LINE_INTERVAL, 2 * self._interval)
        return self._interval

    def show(self, snapshot: RunSnapshot) -> None:
        left, right = describe(snapshot, self.first, LINES_WIDTH)
        self._write(f"{left} {right}")

    def close(self, snapshot: RunSnapshot, text: str) -> None:
        if text:
            self._write(text)

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class _Bar(_Screen):
    """A bar of tqdm on a terminal.

    make: the class of the bar.
    """

    def __init__(self, make: Any, stream: TextIO, first: RunSnapshot) -> None:
        super().__init__(first)
        self._stream = stream
        self._drawn: Any = None
        self._bar = make(
            total=first.total,
            initial=first.finished,
            file=stream,
            bar_format=self._format(first),
            leave=False,
            dynamic_ncols=True,
            smoothing=0,
        )

    def next_interval(self) -> float:
        return BAR_INTERVAL

    def show(self, snapshot: RunSnapshot) -> None:
        drawn = (snapshot.finished, snapshot.total, self._format(snapshot))
        if drawn != self._drawn:
            self._drawn = drawn
            self._bar.n, self._bar.total, self._bar.bar_format = drawn
            self._bar.refresh()

    def _format(self, snapshot: RunSnapshot) -> str:
        width = _columns(self._stream) - 1
        bar, bar_width = (BAR, BAR_WIDTH) if width >= FULL_WIDTH else (" ", 1)
        left, right = describe(snapshot, self.first, width - bar_width)
        return _escape(left) + bar + _escape(right)

    def close(self, snapshot: RunSnapshot, text: str) -> None:
        self._bar.clear()
        self._bar.close()
        if text:
            self._bar.write(text, file=self._stream)  # keeps other bars intact
            self._stream.flush()


class _Cell(_Screen):
    """An output of a notebook's cell, which is replaced during the run."""

    def __init__(self, first: RunSnapshot) -> None:
        super().__init__(first)
        from IPython import display

        show: Any = display.display  # it has no types
        self._drawn = self._make(first, "")
        self._handle = show(self._drawn, raw=True, display_id=True)

    def next_interval(self) -> float:
        return CELL_INTERVAL

    def show(self, snapshot: RunSnapshot) -> None:
        self._update(self._make(snapshot, " ".join(describe(snapshot, self.first, LINES_WIDTH))))

    def close(self, snapshot: RunSnapshot, text: str) -> None:
        self._update(self._make(snapshot, text))

    def _update(self, bundle: Dict[str, str]) -> None:
        if bundle != self._drawn:
            self._drawn = bundle
            self._handle.update(bundle, raw=True)

    def _make(self, snapshot: RunSnapshot, text: str) -> Dict[str, str]:
        """Return the bar and a text by their MIME types."""
        color = "#c62828" if snapshot.failed > snapshot.cancelled else "#1976d2"
        ended = snapshot.complete + snapshot.partial + snapshot.failed - snapshot.cancelled
        value = ended if snapshot.cancelled else snapshot.finished
        markup = (
            f'<div><progress value="{value}" max="{max(1, snapshot.total)}" '
            f'style="width: 14em; vertical-align: middle; accent-color: {color}"></progress> '
            f"{html.escape(text)}</div>"
        )
        return {"text/html": markup, "text/plain": text}


def _open_screen(first: RunSnapshot) -> Optional[_Screen]:
    """Return where to draw; None if nobody looks."""
    if _in_notebook():
        return _Cell(first)
    stream = sys.stderr
    if stream is None or not stream.isatty():
        return None
    make = _find_tqdm() if os.environ.get("TERM") != "dumb" else None
    return _Lines(stream, first) if make is None else _Bar(make, stream, first)


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None) is not None


def _find_tqdm() -> Any:
    """Return the class of a bar; None without tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None

    class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
        monitor_interval = 0  # its thread redraws bars that are not updated; this one is

    return Bar


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def _escape(text: str) -> str:
    """Return a text for a format of tqdm."""
    return text.replace("{", "{{").replace("}", "}}")


# Texts


def describe(snapshot: RunSnapshot, first: RunSnapshot, width: int) -> Tuple[str, str]:
    """Describe the progress of a run in two parts, for the left and the right of a bar.

    snapshot, first: the present state, and the one when the drawing began.
    width: the most characters of both together; what matters least is left out.
    """
    total, finished = snapshot.total, snapshot.finished
    share = finished / total if total else 1.0
    left = f"{int(100 * share):3d}%"
    right = f"{finished}/{total} [{_clock(snapshot.seconds)}"
    seconds, done = snapshot.seconds - first.seconds, finished - first.finished
    if done > 0 and finished < total:
        right += f"<{_clock(seconds * (total - finished) / done)}"
    right += "]"
    if snapshot.name is not None and width >= FULL_WIDTH - BAR_WIDTH:
        left = f"{_shorten(snapshot.name, 20)}: {left}"
    counts = []
    if snapshot.failed:
        counts.append(f"{snapshot.failed} failed")
    if snapshot.parked:
        counts.append(f"{snapshot.parked} parked")
    counts += _costs(snapshot)
    room = width - len(left) - len(right)
    for number, count in enumerate(counts):
        part = (" " if number == 0 else ", ") + count
        if len(part) > room:
            break
        right += part
        room -= len(part)
    right += _describe_active(snapshot.active, room - len(" | "))
    return left, right


def _describe_active(active: List[ActiveTask], room: int) -> str:
    """Name the active tasks, those first that wait for something, in at most `room` characters."""
    tasks = sorted(active, key=lambda task: task.until is None)
    text = ""
    for number, task in enumerate(tasks):
        part = _shorten(task.name)
        does = [_shorten(task.text)] if task.text else []
        if task.until is not None:
            does.append(f"{max(0, math.ceil(task.until - clock.monotonic()))} s")
        if does:
            part += f" ({', '.join(does)})"
        separator = ", " if text else ""
        rest = len(tasks) - number
        more = f", +{rest - 1}" if rest > 1 else ""
        if len(text + separator + part + more) > room:
            if text:
                text += f", +{rest}"
            elif len(f"{rest} active") <= room:
                text = f"{rest} active"
            break
        text += separator + part
    return f" | {text}" if text else ""


def _costs(snapshot: RunSnapshot) -> List[str]:
    """Return the tokens and the dollars that a run has used, as far as there are any."""
    costs = []
    tokens = snapshot.usage.total_tokens
    if tokens:
        costs.append(f"{format_tokens(tokens)} tokens")
    if snapshot.dollars:
        costs.append(format_cost(snapshot.dollars))
    return costs


def describe_end(
    snapshot: RunSnapshot, result: Optional[RunResult], error: Optional[BaseException], hint: str
) -> str:
    """Return the last line: how the run ended, what was finished, and where it is."""
    run = "the run" if snapshot.name is None else _shorten(snapshot.name)
    total = f"{snapshot.total} task{'' if snapshot.total == 1 else 's'}"
    has_result = f"{snapshot.complete + snapshot.partial} of {total} have a result"
    after = f"after {_clock(snapshot.seconds)}"
    again = f"the same call with run_id={snapshot.run_id!r} continues it"
    counts = ", ".join([has_result, *_count_others(snapshot, result), *_costs(snapshot)])
    if result is None:
        if isinstance(error, (RunTimeout, Cancelled)):
            return f"{run} continues {after}: {counts}"
        if isinstance(error, AsimovError):  # which says why
            return f"{run} ended {after}: {counts}"
        where = again if snapshot.durable else hint
        return f"{run} was interrupted {after}: {counts}" + (f"; {where}" if where else "")
    if result.restored:
        return (
            f"{run}: the stored result of run {snapshot.run_id!r}: {result.status.name}, {counts}"
        )
    if result.status is TaskStatus.COMPLETE:
        return ", ".join([f"{run}: {total} finished {after}", *_costs(snapshot)])
    if result.status is TaskStatus.WAITING:
        return (
            f"{run} is parked {after}: {counts}; after store.answer() or store.approve(), {again}"
        )
    why = "" if result.reason is None else f" ({_shorten(result.reason, 80)})"
    text = f"{run} is {result.status.name} {after}{why}: {counts}"
    return f"{text}; result.raise_for_failure() says why"


def _count_others(snapshot: RunSnapshot, result: Optional[RunResult]) -> List[str]:
    """Count the tasks without a result, and name some of them."""
    failed, parked = [], []
    skipped = 0  # after an interruption, these are all that are left
    if result is not None:
        errors = result.exceptions.items()
        failed = [name for name, error in errors if not isinstance(error, Cancelled)]
        parked = list(result.waiting)
        skipped = snapshot.skipped
    counts = []
    for count, kind, names in (
        (snapshot.failed - snapshot.cancelled, "failed", failed),
        (snapshot.cancelled, "cancelled", []),
        (skipped, "skipped", []),
        (snapshot.parked, "parked", parked),
    ):
        if count > 0:
            shown = [_shorten(name) for name in names[:SHOWN_NAMES]]
            if len(names) > SHOWN_NAMES:
                shown.append("...")
            counts.append(f"{count} {kind}" + (f" ({', '.join(shown)})" if shown else ""))
    return counts


def _shorten(text: str, length: int = NAME_LENGTH) -> str:
    """Shorten a text, and replace control characters, which could move the cursor."""
    text = "".join(
        character if character.isprintable() else " " for character in str(text)[: 4 * length]
    )
    return text if len(text) <= length else text[: length - 3] + "..."


def _clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, and hours if there are any."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
