"""HTML for the cells of notebooks: short, without scripts and without ids, so that cells do not
affect each other."""

from typing import Any, Callable, Dict, List, Sequence, Type

from asimov_sync.agents.agent import Agent
from asimov_sync.display.conversation import CONVERSATION_STYLE, draw_messages
from asimov_sync.display.markup import escape, escape_short
from asimov_sync.display.report import draw_status
from asimov_sync.display.style import PICTURE_STYLE, THEME
from asimov_sync.display.svg import graph_svg
from asimov_sync.display.view import TaskView, to_text, view_graph, view_messages, view_result
from asimov_sync.display.words import (
    STATUS_ORDER,
    count_statuses,
    format_seconds,
    format_usage,
    plural,
)
from asimov_sync.errors import GraphError
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.inference.tools.loop import CalledTool, ToolRun
from asimov_sync.messages import Reply, Usage

__all__ = ["notebook_html"]

MAX_ROWS = 40
"""The number of tasks in the table of a run; those that need attention come first."""

MAX_ERROR = 300
MAX_ARGUMENTS = 3000

STYLE = """\
div.asy{color:var(--text);font:13px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,\
"Liberation Sans",sans-serif;max-width:1100px}
.asy .quiet{color:var(--quiet)}
.asy .mark{display:inline-flex;align-items:center;gap:6px;color:var(--own,var(--quiet));\
font-weight:600;white-space:nowrap}
.asy .mark svg{width:15px;height:15px;flex:none}
.asy .line{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:center;margin:2px 0 8px}
.asy .scroll{overflow:auto;max-height:560px}
.asy .scroll svg.fit{max-width:100%;min-width:780px;height:auto}
div.asy table{border-collapse:collapse;margin:0;color:inherit;font-variant-numeric:tabular-nums}
div.asy table tbody tr:nth-child(n){background:none}
div.asy table th,div.asy table td{text-align:left;padding:3px 16px 3px 0;border:0;\
border-bottom:1px solid var(--line);vertical-align:top;background:none;color:inherit;\
font-size:13px;overflow-wrap:anywhere;white-space:normal}
div.asy table th{color:var(--quiet);font-weight:600;font-size:12px}
div.asy table td.number,div.asy table th.number{text-align:right;white-space:nowrap}
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
    sheet = THEME + PICTURE_STYLE + STYLE + CONVERSATION_STYLE
    return f'<div class="asy"><style>{sheet}</style>{content}</div>'


def _show_graph(graph: TaskGraph) -> str:
    try:
        view = view_graph(graph)
    except GraphError as error:
        text = escape_short(str(error), MAX_ERROR)
        return f"<code>{escape_short(repr(graph), MAX_ERROR)}</code><p class='bad-text'>{text}</p>"
    picture = graph_svg(view, style=False)
    return (
        f'<div class="scroll">{picture}</div>'
        if view.tasks
        else escape_short(repr(graph), MAX_ERROR)
    )


def _show_result(result: RunResult) -> str:
    view = view_result(result, content=False)
    counts = count_statuses(view.tasks)
    parts = [f"{count} {escape(status)}" for status, count in counts.items()]
    parts += [one for one in (format_seconds(view.seconds), format_usage(view.usage)) if one]
    status = view.status or ""
    line = f'<div class="line">{draw_status(status)} <span class="quiet">{", ".join(parts)}</span>'
    if view.reason:
        line += f"<bdi>ended early: {escape_short(view.reason, MAX_ERROR)}</bdi>"
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
            _cell("td", f"<bdi>{escape_short(task.name, 120)}</bdi>"),
            _cell("td", draw_status(task.status)),
            _cell("td", format_seconds(task.seconds), True),
        ]
        if with_usage:
            cells.append(_cell("td", format_usage(task.usage), True))
        if with_error:
            style = "bad-text" if task.status == "failed" else "quiet"
            error = escape_short(task.error or "", MAX_ERROR)
            cells.append(f'<td><bdi class="{style}">{error}</bdi></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    more = len(tasks) - len(shown)
    note = f'<div class="quiet">and {more:,} more tasks</div>' if more else ""
    body = "".join(rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>{note}'


def _cell(tag: str, content: str, is_number: bool = False) -> str:
    return f"<{tag}{' class=number' if is_number else ''}>{content}</{tag}>"


def _show_usage(usage: Usage) -> str:
    counts = [(name.replace("_", " "), count) for name, count in dict(usage).items() if count]
    rows = "".join(f"<tr><td>{name}</td>{_cell('td', f'{n:,}', True)}</tr>" for name, n in counts)
    return f"<table><tbody>{rows}</tbody></table>" if rows else "no tokens"


def _show_reply(reply: Reply) -> str:
    parts = [draw_messages(view_messages([reply.message]))]
    if reply.parsed is not None:
        parts.append(_draw_value("parsed", reply.parsed))
    facts = [reply.stop_reason or "partial", reply.model or "", format_usage(reply.usage)]
    return "".join(parts) + _draw_facts(facts)


def _show_tool_run(run: ToolRun) -> str:
    parts = [draw_messages(view_messages([run.reply.message]))]
    if run.parsed is not None:
        parts.append(_draw_value("parsed", run.parsed))
    for call in run.pending:
        waiting = f"<b>waits for approval: <bdi>{escape_short(call.name, 120)}</bdi></b>"
        parts.append(f'<div class="line s-parked">{waiting}</div>')
        parts.append(f"<pre>{escape_short(to_text(call.arguments), MAX_ARGUMENTS)}</pre>")
    parts.append(
        _draw_facts(
            [
                run.stop_reason or "partial",
                plural(run.usage.requests, "request"),
                format_usage(run.usage),
            ]
        )
    )
    if run.calls:
        parts.append(_draw_calls(run.calls))
    title = f"The whole conversation: {plural(len(run.messages), 'message')}"
    conversation = draw_messages(view_messages(run.messages))
    parts.append(f"<details><summary>{title}</summary>{conversation}</details>")
    return "".join(parts)


def _draw_calls(calls: Sequence[CalledTool]) -> str:
    rows = []
    for called in calls[:MAX_ROWS]:
        style = "quiet" if called.exception is None else "bad-text"
        cells = [
            _cell("td", f"<bdi>{escape_short(called.call.name, 120)}</bdi>"),
            _cell("td", f"<bdi>{escape_short(to_text(called.call.arguments), 200)}</bdi>"),
            _cell("td", format_seconds(called.seconds), True),
            f'<td><bdi class="{style}">{escape_short(called.text, MAX_ERROR)}</bdi></td>',
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "<th>Tool</th><th>Arguments</th><th class=number>Time</th><th>Result</th>"
    more = len(calls) - MAX_ROWS
    note = f'<div class="quiet">and {plural(more, "more call")}</div>' if more > 0 else ""
    body = "".join(rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>{note}'


def _show_agent(agent: Agent) -> str:
    parts = [f"<div class='line'>{escape_short(repr(agent), MAX_ERROR)}</div>"]
    if agent.system is not None:
        parts.append(f"<pre>{escape_short(to_text(agent.system), MAX_ARGUMENTS)}</pre>")
    rows = "".join(
        f"<tr>{_cell('td', escape_short(tool.name, MAX_ERROR))}"
        f"{_cell('td', escape_short(tool.description, MAX_ERROR))}</tr>"
        for tool in agent.tools
    )
    if rows:
        head = "<tr><th>Tool</th><th>Description</th></tr>"
        parts.append(f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>")
    return "".join(parts)


def _draw_value(label: str, value: Any) -> str:
    return f"<div>{label}</div><pre>{escape_short(to_text(value), MAX_ARGUMENTS)}</pre>"


def _draw_facts(facts: Sequence[str]) -> str:
    shown = " · ".join(escape_short(one, MAX_ERROR) for one in facts if one)
    return f'<div class="line quiet">{shown}</div>'


_SHOW: Dict[Type[Any], Callable[[Any], str]] = {
    TaskGraph: _show_graph,
    RunResult: _show_result,
    ToolRun: _show_tool_run,
    Reply: _show_reply,
    Usage: _show_usage,
    Agent: _show_agent,
}
