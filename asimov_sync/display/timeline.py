"""Draws when the tasks of a run worked, with their model and tool calls, as SVG."""

import heapq
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from asimov_sync.display.axis import TOP, Axis
from asimov_sync.display.markup import escape, escape_short, make_visible, shorten
from asimov_sync.display.svg import draw_svg
from asimov_sync.display.view import RunView, SpanView, TaskView
from asimov_sync.display.words import (
    format_cost,
    format_seconds,
    format_usage,
    shorten_to_width,
)

__all__ = ["timeline_svg"]

Link = Callable[[str], Optional[str]]

WIDTH = 1080
LABELS = 190
ROW = 26
BAR = 18
CALL = 5
LANE = 20
PACKED_GAP = 3
MAX_ROWS = 120
"""The number of tasks up to which each has a row; the bars of more tasks share rows."""

MAX_LANES = 100
MAX_BARS = 2500
"""The number of bars that have titles and links; those after them have none."""

MAX_NAME = 80
MAX_TITLE = 250
MAX_SPANS = 15_000
"""The number of model and tool calls that are drawn at most."""


class _Bar(NamedTuple):
    task: TaskView
    number: int
    start: float
    end: float


def timeline_svg(
    view: RunView,
    *,
    now: Optional[float] = None,
    link: Optional[Link] = None,
    style: bool = True,
) -> str:
    """Return the timeline of a run as an `<svg>` element; empty if no times are known.

    view: what to draw. Up to 120 tasks have a row each. The bars of more tasks are packed.
    now: the end of what is not over, in seconds since the epoch; default the last known time.
    link, style: see `graph_svg`.
    """
    last = max((one for one in _times(view.tasks)), default=None)
    if last is None:
        return ""
    end = last if now is None else max(now, last)
    bars = _find_bars(view.tasks, end)
    end = max(bar.end for bar in bars)
    labelled = len(bars) <= MAX_ROWS
    work = [period for bar in bars for period in _periods_of(bar, end)]
    axis = Axis(work, LABELS if labelled else 8, WIDTH - 12)
    rows = list(range(len(bars))) if labelled else _pack(bars, axis)
    shown = [(bar, row) for bar, row in zip(bars, rows) if labelled or row < MAX_LANES]
    step = ROW if labelled else LANE
    height = TOP + (max(row for _, row in shown) + 1) * step + 8
    parts = [axis.draw(height)]
    marks: Dict[str, List[str]] = {}
    room = MAX_SPANS
    for number, (bar, row) in enumerate(shown):
        top = TOP + row * step + (step - BAR) // 2
        spans = [span for span in bar.task.spans if span.start is not None]
        calls = [span for span in spans if span.kind != "attempt"][:room]
        room -= len(calls)
        if number >= MAX_BARS:
            x, width = axis.place(bar.start, bar.end)
            marks.setdefault("attempt", []).append(_box_path(x, top, width, BAR))
            continue
        shapes = [_draw_attempts(bar, spans, axis, top)]
        if labelled:
            shapes += [_draw_call(span, axis, top) for span in calls]
            shapes.append(_draw_label(bar.task, top))
        else:
            for span in calls:
                marks.setdefault(_kind_of(span), []).append(_outline(span, axis, top))
        parts.append(_wrap(bar.task, "".join(shapes), link))
    for kind, outlines in marks.items():
        parts.append(f'<path class="{kind}" d="{"".join(outlines)}"/>')
    left_out = len(bars) - len(shown)
    if left_out:
        height += 20
        parts.append(f'<text class="quiet" x="8" y="{height - 8}">{left_out} more tasks</text>')
    role = "img" if link is None else "group"  # the parts of an image are not reachable
    title = f"Timeline of {len(bars)} tasks over {format_seconds(end - bars[0].start)}"
    return draw_svg("".join(parts), WIDTH, height, title, role=role, style=style, fits=not style)


def _find_bars(tasks: Sequence[TaskView], end: float) -> List[_Bar]:
    """Return the bars of the tasks that have started, in the order in which they started."""
    bars = []
    for number, task in enumerate(tasks):
        start, stop = _extent(task, end)
        if start is not None:
            bars.append(_Bar(task, number, start, max(start, stop)))
    return sorted(bars, key=lambda bar: (bar.start, bar.number))


def _times(tasks: Iterable[TaskView]) -> Iterable[float]:
    for task in tasks:
        for one in (task.started, task.ended):
            if one is not None:
                yield one
        for span in task.spans:
            for one in (span.start, span.end):
                if one is not None:
                    yield one


def _extent(task: TaskView, end: float) -> Tuple[Optional[float], float]:
    """Return the start and the end of a task's bar; None without."""
    starts = [span.start for span in task.spans if span.start is not None]
    if task.started is not None:
        starts.append(task.started)
    if not starts:
        return None, end
    if task.status in ("executing", "delayed"):
        return min(starts), end
    ends = [span.end for span in task.spans if span.end is not None]
    if task.ended is not None:
        ends.append(task.ended)
    return min(starts), max(ends, default=end)


def _periods_of(bar: _Bar, end: float) -> List[Tuple[float, float]]:
    """Return when a task worked: its attempts, or the whole bar if they are not known."""
    periods = [
        (span.start, max(span.start, end if span.end is None else span.end))
        for span in bar.task.spans
        if span.kind == "attempt" and span.start is not None
    ]
    return periods or [(bar.start, bar.end)]


def _pack(bars: Sequence[_Bar], axis: Axis) -> List[int]:
    """Return a row for each bar, so that few rows are used and no two bars overlap."""
    free: List[int] = []
    busy: List[Tuple[float, int]] = []
    rows = []
    count = 0
    for bar in bars:
        left, width = axis.place(bar.start, bar.end)
        while busy and busy[0][0] <= left:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            row = heapq.heappop(free)
        else:
            row, count = count, count + 1
        rows.append(row)
        heapq.heappush(busy, (left + width + PACKED_GAP, row))
    return rows


def _draw_attempts(bar: _Bar, spans: Sequence[SpanView], axis: Axis, top: int) -> str:
    task = bar.task
    whole = f"{shorten(task.name, MAX_NAME)}: {task.status}, {format_seconds(bar.end - bar.start)}"
    attempts = [span for span in spans if span.kind == "attempt"]
    if not attempts:
        x, width = axis.place(bar.start, bar.end)
        return _rectangle("attempt", x, top, width, BAR, whole)
    shapes = []
    for span in attempts:
        x, width = axis.place(span.start, span.end)
        title = whole if len(attempts) == 1 else f"{whole}, {_span_title(span, axis)}"
        kind = "attempt bad" if span.error is not None else "attempt"
        shapes.append(_rectangle(kind, x, top, width, BAR, title))
    return "".join(shapes)


def _rectangle(kind: str, x: float, y: float, width: float, height: float, title: str) -> str:
    shape = f'x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="2"'
    return f'<rect class="{kind}" {shape}><title>{escape_short(title, MAX_TITLE)}</title></rect>'


def _draw_call(span: SpanView, axis: Axis, top: int) -> str:
    x, width = axis.place(span.start, span.end)
    title = _span_title(span, axis)
    return _rectangle(_kind_of(span), x, top + _offset(span), width, CALL, title)


def _outline(span: SpanView, axis: Axis, top: int) -> str:
    """Return a call as a part of a path, which is shorter than an element."""
    x, width = axis.place(span.start, span.end)
    return _box_path(x, top + _offset(span), width, CALL)


def _box_path(x: float, y: int, width: float, height: int) -> str:
    return f"M{x:.1f} {y}h{width:.1f}v{height}h-{width:.1f}z"


def _kind_of(span: SpanView) -> str:
    """Return the class of a call: of a kind that is not known, that of tools."""
    return "bad" if span.error is not None else "model" if span.kind == "model" else "tool"


def _offset(span: SpanView) -> int:
    return 3 if span.kind == "model" else 10


def _draw_label(task: TaskView, top: int) -> str:
    name = make_visible(shorten(task.name, MAX_TITLE).replace("\n", " "))
    label = shorten_to_width(name, LABELS - 24, 13)
    return f'<text x="8" y="{top + 13}">{escape(label)}</text>'


def _wrap(task: TaskView, shapes: str, link: Optional[Link]) -> str:
    group = f'<g class="s-{task.status.replace(" ", "-")}">{shapes}</g>'
    address = link(task.name) if link is not None else None
    return group if address is None else f'<a href="{escape(address)}">{group}</a>'


def _span_title(span: SpanView, axis: Axis) -> str:
    name = shorten(span.name, MAX_NAME)
    parts = [name if span.kind == "attempt" else f"{span.kind} {name}"]
    if span.start is not None:
        end = axis.end if span.end is None else span.end
        parts.append(format_seconds(end - span.start))
    parts += [one for one in (format_usage(span.usage), format_cost(span.cost)) if one]
    if span.error is not None:
        parts.append(shorten(span.error, 200))
    return ", ".join(parts)
