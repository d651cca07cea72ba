"""HTML for the cells of notebooks: short, without scripts and without ids, so that cells do not
affect each other."""

from typing import Any, Callable, Dict, List, Sequence, Type

from asimov_sync.display.markup import escape
from asimov_sync.display.report import draw_status
from asimov_sync.display.style import PICTURE_STYLE, THEME
from asimov_sync.display.svg import graph_svg
from asimov_sync.display.view import TaskView, shorten, view_graph, view_result
from asimov_sync.display.words import (
    STATUS_ORDER,
    count_statuses,
    format_seconds,
    format_usage,
)
from asimov_sync.errors import GraphError
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.task_graph import TaskGraph

__all__ = ["notebook_html"]

MAX_ROWS = 40
"""The number of tasks in the table of a run; those that need attention come first."""

MAX_ERROR = 300

STYLE = """\
div.asy{color:var(--text);font:13px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,\
"Liberation Sans",sans-serif;max-width:1000px}
.asy .quiet{color:var(--quiet)}
.asy .mark{display:inline-flex;align-items:center;gap:6px;color:var(--own,var(--quiet));\
font-weight:600;white-space:nowrap}
.asy .mark svg{width:15px;height:15px;flex:none}
.asy .line{margin:2px 0 8px}
.asy .scroll{overflow:auto;max-height:560px}
.asy table{border-collapse:collapse;margin:0;color:inherit;font-variant-numeric:tabular-nums}
.asy th,.asy td{text-align:left;padding:3px 16px 3px 0;border:0;border-bottom:1px solid \
var(--line);vertical-align:top;background:none;color:inherit;font-size:13px}
.asy th{color:var(--quiet);font-weight:600;font-size:12px}
.asy td.number,.asy th.number{text-align:right;white-space:nowrap}
.asy td{overflow-wrap:anywhere;white-space:normal}
.asy .bad-text{color:var(--failed)}
.asy pre{margin:4px 0;padding:8px 10px;background:var(--raised);color:inherit;border-radius:6px;\
white-space:pre-wrap;overflow-wrap:anywhere;max-height:320px;overflow:auto;font-size:12px}
.asy summary{cursor:pointer}
"""


def notebook_html(value: Any) -> str:
    """Return what a notebook shows of a value of this library."""
    for kind, show in _SHOW.items():
        if isinstance(value, kind):
            return _wrap(show(value))
    raise TypeError(f"there is no HTML for {value!r}")


def _wrap(content: str) -> str:
    return f'<div class="asy"><style>{THEME}{PICTURE_STYLE}{STYLE}</style>{content}</div>'


def _show_graph(graph: TaskGraph) -> str:
    try:
        view = view_graph(graph)
    except GraphError as error:
        text = escape(shorten(str(error), MAX_ERROR))
        return f"<code>{escape(repr(graph))}</code><p class='bad-text'>{text}</p>"
    picture = graph_svg(view, style=False)
    return f'<div class="scroll">{picture}</div>' if view.tasks else escape(repr(graph))


def _show_result(result: RunResult) -> str:
    view = view_result(result, content=False)
    counts = count_statuses(view.tasks)
    parts = [f"{count} {escape(status)}" for status, count in counts.items()]
    parts += [one for one in (format_seconds(view.seconds), format_usage(view.usage)) if one]
    status = view.status or ""
    line = f'<div class="line">{draw_status(status)} <span class="quiet">{", ".join(parts)}</span>'
    if view.reason:
        line += f"<br><bdi>ended early: {escape(shorten(view.reason, MAX_ERROR))}</bdi>"
    return line + "</div>" + _draw_tasks(view.tasks)


def _draw_tasks(tasks: Sequence[TaskView]) -> str:
    shown = list(tasks)
    if len(shown) > MAX_ROWS:
        urgency = {status: number for number, status in enumerate(STATUS_ORDER)}
        shown = sorted(shown, key=lambda task: urgency[task.status])[:MAX_ROWS]
    with_usage = any(format_usage(task.usage) for task in tasks)
    with_error = any(task.error for task in tasks)
    titles = ["Task", "Status", "Time"] + ["Tokens"] * with_usage + ["Error"] * with_error
    head = "".join(_cell("th", title, title in ("Time", "Tokens")) for title in titles)
    rows: List[str] = []
    for task in shown:
        cells = [
            _cell("td", f"<bdi>{escape(shorten(task.name, 120))}</bdi>"),
            _cell("td", draw_status(task.status)),
            _cell("td", format_seconds(task.seconds), True),
        ]
        if with_usage:
            cells.append(_cell("td", format_usage(task.usage), True))
        if with_error:
            style = "bad-text" if task.status == "failed" else "quiet"
            error = escape(shorten(task.error or "", MAX_ERROR))
            cells.append(f'<td><bdi class="{style}">{error}</bdi></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    more = len(tasks) - len(shown)
    note = f'<div class="quiet">and {more:,} more tasks</div>' if more else ""
    body = "".join(rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>{note}'


def _cell(tag: str, content: str, is_number: bool = False) -> str:
    return f"<{tag}{' class=number' if is_number else ''}>{content}</{tag}>"


_SHOW: Dict[Type[Any], Callable[[Any], str]] = {TaskGraph: _show_graph, RunResult: _show_result}
