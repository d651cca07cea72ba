"""Writes the report of a run: one HTML file that needs nothing else, and runs no foreign code.

The texts of the run are escaped and bounded. A content security policy allows the style sheet and
the script of this file alone, by their hashes, and nothing from a network.
"""

import base64
import hashlib
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from asimov_sync import __version__
from asimov_sync.display.conversation import CONVERSATION_STYLE, draw_messages
from asimov_sync.display.markup import escape, escape_short, shorten
from asimov_sync.display.style import PICTURE_STYLE, REPORT_STYLE, THEME
from asimov_sync.display.svg import graph_svg, sign
from asimov_sync.display.timeline import timeline_svg
from asimov_sync.display.view import MessageView, RunView, SpanView, TaskView, to_text
from asimov_sync.display.words import (
    STATUS_ORDER,
    count_statuses,
    format_cost,
    format_seconds,
    format_time,
    format_tokens,
    format_usage,
)
from asimov_sync.messages import Usage

__all__ = [
    "SPAN_LEGEND",
    "STYLE",
    "draw_head",
    "draw_legend",
    "draw_sign",
    "draw_status",
    "draw_task",
    "draw_usage",
    "kind_of_run",
    "report_html",
]

MAX_BYTES = 4_500_000
"""The size of a report that its texts may fill, in bytes. What exceeds it is left out."""

MAX_TEXT = 1_600_000
"""The number of characters of results, tracebacks and transcripts that a report has room for."""

MIN_TEXT = 300
"""The number of characters to which no text of a report is shortened further."""

MAX_TASKS = 3000
"""The number of tasks in the list of a report; if there are more, failed ones come first."""

MAX_SPANS = 5000
"""The number of model and tool calls in the list of a report."""

MAX_PARTS = 6000
"""The number of parts of messages in a report."""

MAX_NAME = 200
MAX_NAMES = 30
MAX_REASON = 2000
MAX_FACTS = 50
MAX_WAITS = 20
MAX_TABLE = 40
"""The number of rows in a table of usage; a last row has the sum of the others."""

MAX_FAILURES = 12
"""The number of failed tasks that are listed at the top."""

ROW_BYTES = 700
"""The size of a task in the list without its texts, in bytes, rounded up."""

STYLE = THEME + PICTURE_STYLE + REPORT_STYLE + CONVERSATION_STYLE
"""The style sheet of the report, for other pages that show its parts. The page's `body`, or an
element around them, has the class "asy"."""

SCRIPT = """\
(function () {
  var tools = document.querySelector('.tools');
  if (!tools) return;
  var find = tools.querySelector('input');
  var status = tools.querySelector('select');
  var count = tools.querySelector('output');
  var tasks = Array.prototype.slice.call(document.querySelectorAll('details.task'));
  function filter() {
    var text = find.value.toLowerCase();
    var shown = 0;
    tasks.forEach(function (task) {
      var ok = (!status.value || task.dataset.status === status.value) &&
        (!text || task.querySelector('.name').textContent.toLowerCase().indexOf(text) >= 0);
      task.hidden = !ok;
      if (ok) shown += 1;
    });
    count.textContent = shown === tasks.length ? '' : shown + ' of ' + tasks.length;
  }
  function reveal() {
    var id = location.hash.slice(1);
    var task = id && document.getElementById(id);
    if (task && task.tagName === 'DETAILS') {
      task.hidden = false;
      task.open = true;
      task.scrollIntoView();
      task.querySelector('summary').focus({preventScroll: true});
    }
  }
  function setAll(open) {
    tasks.forEach(function (task) { if (!task.hidden) task.open = open; });
  }
  find.addEventListener('input', filter);
  status.addEventListener('change', filter);
  var buttons = tools.querySelectorAll('button');
  buttons[0].addEventListener('click', function () { setAll(true); });
  buttons[1].addEventListener('click', function () { setAll(false); });
  addEventListener('hashchange', reveal);
  tools.hidden = false;
  reveal();
})();
"""


def report_html(view: RunView) -> str:
    """Return the report of a run as a whole HTML document.

    view: the run. Its texts are shortened so that the document stays below 5 MB.
    """
    listed = _choose_tasks(view.tasks)
    anchors = {view.tasks[number].name: f"#t{number}" for number in listed}
    graph = graph_svg(view, link=anchors.get, style=False)
    timeline = timeline_svg(view, link=anchors.get, style=False)
    parts = [draw_head(view), _draw_failures(view, anchors), '<h2 id="graph">Graph</h2>']
    parts.append(f'<div class="picture" tabindex="0" role="group" aria-label="Graph">{graph}</div>')
    parts.append(draw_legend(view))
    if timeline:
        parts.append(
            '<h2 id="timeline">Timeline</h2>'
            f'<div class="picture" tabindex="0" role="group" aria-label="Timeline">{timeline}</div>'
        )
        parts.append(SPAN_LEGEND if any(task.spans for task in view.tasks) else "")
    parts.append(draw_usage(view))
    parts.append('<h2 id="tasks">Tasks</h2>')
    parts.append(_draw_tools(view))
    fixed = (
        sum(len(part.encode("utf-8")) for part in parts)
        + len(STYLE)
        + len(SCRIPT)
        + ROW_BYTES * len(listed)
    )
    texts = _Texts([view.tasks[number] for number in listed], MAX_BYTES - fixed)
    many = " many" if len(listed) > 200 else ""
    parts.append(f'<div class="tasks{many}">')
    parts += [_draw_row(view.tasks[number], number, texts) for number in listed]
    parts.append("</div>")
    left_out = len(view.tasks) - len(listed)
    if left_out:
        parts.append(f'<p class="quiet">{left_out:,} more tasks are not listed.</p>')
    parts.append(f"<footer>asimov_sync {__version__}. Times are in UTC.</footer>")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape_short(view.title or 'Run', MAX_NAME)}</title>\n"
        f'<style>{STYLE}</style>\n</head>\n<body class="asy">\n{_SIGNS}<main>\n'
        f"{''.join(parts)}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _choose_tasks(tasks: Sequence[TaskView]) -> List[int]:
    """Return the numbers of the tasks to list, in their order."""
    if len(tasks) <= MAX_TASKS:
        return list(range(len(tasks)))
    urgency = {status: number for number, status in enumerate(STATUS_ORDER)}
    ordered = sorted(range(len(tasks)), key=lambda number: urgency[tasks[number].status])
    return sorted(ordered[:MAX_TASKS])


def _hash(text: str) -> str:
    """Return the source expression that allows one inline element (Content Security Policy 3)."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


class _Texts:
    """Shortens the texts of a report so that all of them together fit.

    tasks: the tasks that are listed.
    room: the bytes that the texts may take as HTML.

    limit: the number of characters to which each long text is shortened.
    label_limit: the same for each short text, such as an objective.
    """

    def __init__(self, tasks: Sequence[TaskView], room: int) -> None:
        lengths = sorted(len(text) for task in tasks for text in _long_texts(task))
        left, number = MAX_TEXT, len(lengths)
        self.limit = lengths[-1] if lengths else 0
        for length in lengths:  # the shortest first: they leave room for the longer ones
            if length * number > left:
                self.limit = max(MIN_TEXT, left // number)
                break
            left -= length
            number -= 1
        self.label_limit = max(120, min(500, 300_000 // max(1, len(tasks))))
        self._room = room
        self._spans = MAX_SPANS
        self._parts = MAX_PARTS

    def show(self, text: str) -> str:
        """Return a long text as HTML."""
        return self._fit(escape_short(text, self.limit), "(left out)")

    def show_label(self, text: str) -> str:
        """Return a short text as HTML."""
        return self._fit(escape_short(text, self.label_limit), "…")

    def _fit(self, html: str, instead: str) -> str:
        size = len(html.encode("utf-8"))
        if size > self._room:
            return instead
        self._room -= size
        return html

    def take_messages(self, messages: Sequence[MessageView]) -> Sequence[MessageView]:
        """Return those of a task's messages that the report has room for."""
        taken = []
        for message in messages:
            self._parts -= len(message.parts)
            if self._parts < 0:
                break
            taken.append(message)
        return taken

    def take_spans(self, spans: Sequence[SpanView]) -> Sequence[SpanView]:
        """Return those of a task's spans that the report has room for."""
        taken = spans[: self._spans]
        self._spans -= len(taken)
        return taken


def _long_texts(task: TaskView) -> List[str]:
    texts = [text for text in (task.result, task.traceback) if text is not None]
    texts += [text for message in task.messages for _, text in message.parts]
    return texts + [text for span in task.spans for _, text in span.content]


_SIGNS = (
    '<svg hidden width="0" height="0">'
    + "".join(
        f'<symbol id="sign-{status.replace(" ", "-")}" viewBox="-9 -9 18 18"><g fill="none" '
        'stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round">'
        f"{sign(status)}</g></symbol>"
        for status in STATUS_ORDER
    )
    + "</svg>"
)
"""The signs of all statuses, to which the rows of the list refer."""


def draw_status(status: str) -> str:
    """Return a status as HTML: its sign and its name, in its colour."""
    kind = f"s-{status.replace(' ', '-')}"
    return f'<span class="mark {kind}">{draw_sign(status)}{escape(status)}</span>'


def draw_sign(status: str) -> str:
    """Return the sign of a task's status as a small picture."""
    return f'<svg viewBox="-9 -9 18 18" aria-hidden="true">{sign(status)}</svg>'


def draw_head(view: RunView) -> str:
    """Return the title, the status and the figures of a run, as HTML."""
    status = view.status or "planned"
    kind = kind_of_run(status)
    counts = count_statuses(view.tasks)
    shown = ", ".join(f"{count} {status}" for status, count in counts.items())
    figures = [("Tasks", f"{len(view.tasks)} <small>{escape(shown)}</small>")]
    if view.seconds is not None:
        figures.append(("Duration", format_seconds(view.seconds)))
    if view.usage is not None and view.usage.requests:
        figures.append(("Requests", str(view.usage.requests)))
        figures.append(("Tokens", _figure_of_tokens(view.usage)))
    if view.cost is not None:
        figures.append(("Cost", format_cost(view.cost)))
    facts = []
    if view.started is not None:
        facts.append(("started", format_time(view.started)))
    facts += list(view.facts) + [(f"tag {name}", value) for name, value in view.tags.items()]
    reason = ""
    if view.reason:
        text = escape_short(view.reason, MAX_REASON)
        reason = f'<p class="reason s-{kind}"><bdi>{text}</bdi></p>'
    return (
        f"<header><h1><bdi>{escape_short(view.title or 'Run', MAX_NAME)}</bdi></h1>"
        f'<span class="mark s-{kind}">{draw_sign(kind)}{escape(status)}</span>{reason}'
        '<dl class="figures">'
        + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
        + "</dl>"
        + _draw_facts(facts)
        + "</header>"
    )


def kind_of_run(status: str) -> str:
    """Return the status of a task whose colour and sign a run's status has."""
    kinds = {"running": "executing", "interrupted": "delayed", "orphaned": "delayed"}
    kind = kinds.get(status, "failed" if status == "cancelled" else status)
    return kind if kind in STATUS_ORDER else "waiting"


def _figure_of_tokens(usage: Usage) -> str:
    return f"{format_tokens(usage.total_tokens)} <small>{format_usage(usage)}</small>"


def _draw_facts(facts: Sequence[Tuple[str, str]]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f"<dt>{escape_short(label, MAX_NAME)}</dt>"
        f"<dd><bdi>{escape_short(value, MAX_NAME)}</bdi></dd>"
        for label, value in facts[:MAX_FACTS]
    )
    return f'<dl class="facts">{rows}</dl>'


def _draw_failures(view: RunView, anchors: Mapping[str, str]) -> str:
    """Return a list of the failed tasks, with links."""
    failed = [task for task in view.tasks if task.status == "failed"]
    if not failed:
        return ""
    lines = []
    for task in failed[:MAX_FAILURES]:
        name = escape_short(task.name, MAX_NAME)
        address = escape(anchors.get(task.name, "#tasks"))
        error = escape_short(task.error or "", MIN_TEXT)
        lines.append(f'<li><a href="{address}"><bdi>{name}</bdi></a> <bdi>{error}</bdi></li>')
    if len(failed) > MAX_FAILURES:
        lines.append(f'<li class="quiet">and {len(failed) - MAX_FAILURES:,} more</li>')
    return f'<h2 id="failures">Failures</h2><ul class="failures">{"".join(lines)}</ul>'


def draw_legend(view: RunView) -> str:
    """Return the signs of the statuses that tasks of a run have, as HTML."""
    signs = [
        f'<span class="s-{status.replace(" ", "-")}">{draw_sign(status)}{escape(status)}</span>'
        for status in count_statuses(view.tasks)
    ]
    return f'<div class="legend">{"".join(signs)}</div>'


SPAN_LEGEND = (
    '<div class="legend">'
    '<span><svg viewBox="0 0 16 16" aria-hidden="true"><rect class="attempt" y="2" width="16" '
    'height="12" rx="2"/></svg>attempt</span>'
    '<span><svg viewBox="0 0 16 16" aria-hidden="true"><rect class="model" y="4" width="16" '
    'height="6" rx="2"/></svg>model call</span>'
    '<span><svg viewBox="0 0 16 16" aria-hidden="true"><rect class="tool" y="7" width="16" '
    'height="6" rx="2"/></svg>tool call</span></div>'
)


def draw_usage(view: RunView) -> str:
    """Return the tables of tokens and cost by model and by type of task."""
    by_model: Dict[str, List[SpanView]] = {}
    for task in view.tasks:
        for span in task.spans:
            if span.kind == "model":
                by_model.setdefault(span.name, []).append(span)
    by_type: Dict[str, List[TaskView]] = {}
    for task in view.tasks:
        if task.usage is not None and task.usage.requests:
            by_type.setdefault(task.type, []).append(task)
    tables = []
    if by_model:
        rows = [
            (name, _sum(one.usage for one in spans), _sum_costs([one.cost for one in spans]))
            for name, spans in by_model.items()
        ]
        tables.append(_draw_table("Model", rows))
    if by_type:
        rows = [
            (name, _sum(one.usage for one in tasks), _sum_costs([one.cost for one in tasks]))
            for name, tasks in by_type.items()
        ]
        tables.append(_draw_table("Type of task", rows))
    return f'<h2 id="usage">Usage and cost</h2>{"".join(tables)}' if tables else ""


def _sum(usages: Iterable[Optional[Usage]]) -> Usage:
    total = Usage()
    for one in usages:
        if one is not None:
            total = total + one
    return total


def _sum_costs(costs: Sequence[Optional[float]]) -> Optional[float]:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def _draw_table(first: str, rows: Sequence[Tuple[str, Usage, Optional[float]]]) -> str:
    ordered = sorted(rows, key=lambda row: (-row[1].total_tokens, row[0]))
    with_cost = any(cost is not None for _, _, cost in rows)
    with_cache = any(usage.cache_read_input_tokens for _, usage, _ in rows)
    titles = [first, "Requests", "Input", *["Cached"] * with_cache, "Output", *["Cost"] * with_cost]
    lines = []
    if len(ordered) > MAX_TABLE:
        others = ordered[MAX_TABLE:]
        total = (
            f"{len(others):,} others",
            _sum(usage for _, usage, _ in others),
            _sum_costs([cost for _, _, cost in others]),
        )
        ordered = [*ordered[:MAX_TABLE], total]
    for name, usage, cost in ordered:
        values = [
            f"{usage.requests:,}",
            f"{usage.total_tokens - usage.output_tokens:,}",
            *[f"{usage.cache_read_input_tokens:,}"] * with_cache,
            f"{usage.output_tokens:,}",
            *[format_cost(cost)] * with_cost,
        ]
        cells = "".join(f"<td>{value}</td>" for value in values)
        lines.append(f"<tr><td><bdi>{escape_short(name, MAX_NAME)}</bdi></td>{cells}</tr>")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _draw_tools(view: RunView) -> str:
    """Return the controls of the list of tasks; the script shows them."""
    options = "".join(f"<option>{escape(status)}</option>" for status in count_statuses(view.tasks))
    return (
        '<div class="tools" hidden>'
        '<input type="search" placeholder="Find a task" aria-label="Find a task">'
        f'<select aria-label="Status"><option value="">every status</option>{options}</select>'
        '<button type="button">Open all</button><button type="button">Close all</button>'
        '<output class="quiet"></output></div>'
    )


def _draw_row(task: TaskView, number: int, texts: _Texts) -> str:
    status = escape(task.status)
    kind = status.replace(" ", "-")
    type_of = f"<small>{texts.show_label(task.type)}</small>" if task.type != task.name else ""
    is_open = " open" if task.status in ("failed", "parked") and number < 200 else ""
    return (
        f'<details class="task s-{kind}" id="t{number}" data-status="{status}"{is_open}>'
        f'<summary><svg aria-hidden="true"><use href="#sign-{kind}"/></svg>'
        f'<span class="name"><bdi>{texts.show_label(task.name)}</bdi>{type_of}</span>'
        f'<span class="state">{status}</span>'
        f'<span class="number seconds">{format_seconds(task.seconds)}</span>'
        f'<span class="number tokens">{format_usage(task.usage)}</span></summary>'
        f'<div class="body">{_draw_body(task, texts)}</div></details>'
    )


def draw_task(task: TaskView) -> str:
    """Return what a report shows of one task when it is open, as HTML."""
    return _draw_body(task, _Texts([task], MAX_BYTES))


def _draw_body(task: TaskView, texts: _Texts) -> str:
    parts = []
    if task.objective:
        parts.append(f'<p dir="auto">{texts.show_label(task.objective)}</p>')
    facts = []
    if task.depends_on:
        facts.append(("depends on", _join(task.depends_on)))
    if task.spawned_by is not None:
        facts.append(("spawned by", task.spawned_by))
    if task.route is not None:
        facts.append(("route", _join(task.route) or "nothing"))
    if task.started is not None:
        facts.append(("started", format_time(task.started)))
    if task.visits > 1:
        facts.append(("visits", str(task.visits)))
    if task.attempts > 1:
        facts.append(("attempts", str(task.attempts)))
    if task.cost is not None:
        facts.append(("cost", format_cost(task.cost)))
    if facts:
        rows = "".join(
            f"<dt>{label}</dt><dd><bdi>{texts.show_label(value)}</bdi></dd>"
            for label, value in facts
        )
        parts.append(f'<dl class="facts">{rows}</dl>')
    for wait in task.waits[:MAX_WAITS]:
        parts.append(f"<h3>Waits for {texts.show_label(wait.name)}</h3>")
        if wait.prompt:
            parts.append(f'<p dir="auto">{texts.show_label(wait.prompt)}</p>')
        if wait.data is not None:
            parts.append(f"<pre>{texts.show(to_text(wait.data))}</pre>")
        if wait.call is not None:
            arguments = to_text(wait.call.arguments)
            parts.append(f"<pre>{texts.show_label(f'{wait.call.name} {arguments}')}</pre>")
    if task.error is not None and task.traceback is None:
        failed = task.status in ("failed", "partial")
        title, style = ("Error", ' class="error"') if failed else ("Why it did not run", "")
        parts.append(f"<h3>{title}</h3><pre{style}>{texts.show_label(task.error)}</pre>")
    if task.traceback is not None:
        parts.append(f'<h3>Error</h3><pre class="error">{texts.show(task.traceback)}</pre>')
    if task.result is not None:
        parts.append(f"<h3>Result</h3><pre>{texts.show(task.result)}</pre>")
    if task.messages:
        title = f"Conversation: {len(task.messages)} messages"
        messages = draw_messages(texts.take_messages(task.messages), texts.show)
        parts.append(f"<details class='span'><summary>{title}</summary>{messages}</details>")
    spans = task.spans
    if len(spans) == 1 and spans[0].kind == "attempt":
        spans = ()
    shown = texts.take_spans(spans)
    if spans:
        parts.append("<h3>Work</h3>")
        parts += [_draw_span(span, texts) for span in shown]
    if len(shown) < len(spans):
        parts.append(f'<p class="quiet">{len(spans) - len(shown):,} more are not listed.</p>')
    return "".join(parts)


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(shorten(name, MAX_NAME) for name in names[:MAX_NAMES]) + more


def _draw_span(span: SpanView, texts: _Texts) -> str:
    details = []
    if span.start is not None and span.end is not None:
        details.append(format_seconds(span.end - span.start))
    details += [one for one in (format_usage(span.usage), format_cost(span.cost)) if one]
    kind = escape_short(span.kind, MAX_NAME)
    name = texts.show_label(span.name)
    if span.kind == "attempt":
        line = f"<b>{name}</b>"
    else:
        line = f'<b class="kind-{kind}">{kind}</b><bdi>{name}</bdi>'
    line += f"<i>{' · '.join(details)}</i>"
    if span.error is not None:
        line += f'<bdi class="bad-text">{texts.show_label(span.error)}</bdi>'
    if not span.content:
        return f'<div class="span">{line}</div>'
    content = "".join(
        f"<h4>{escape_short(label, 80)}</h4><pre>{texts.show(text)}</pre>"
        for label, text in span.content
    )
    return f'<details class="span"><summary>{line}</summary>{content}</details>'
