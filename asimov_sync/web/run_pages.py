"""The pages of the application: HTML made from the records and views of runs.

Pure: no IO. Every text of a run is escaped, shortened and isolated from the direction of the text
around it.
"""

import datetime
import hashlib
import html
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)
from urllib.parse import quote, urlencode

from asimov_sync.display.conversation import draw_messages
from asimov_sync.display.markup import escape, shorten
from asimov_sync.display.report import (
    SPAN_LEGEND,
    draw_head,
    draw_legend,
    draw_sign,
    draw_status,
    draw_task,
    draw_usage,
    kind_of_run,
)
from asimov_sync.display.svg import graph_svg
from asimov_sync.display.timeline import timeline_svg
from asimov_sync.display.view import TaskView, view_messages
from asimov_sync.display.words import format_seconds, format_time, format_usage
from asimov_sync.graph.journal import Wait
from asimov_sync.messages import ChatMessage
from asimov_sync.runs.status import RunStatus
from asimov_sync.runs.store import RunRecord
from asimov_sync.web.live_run import Activity, LiveRun
from asimov_sync.web.page_style import SCRIPT, STYLE
from asimov_sync.web.wait_forms import call_digest, draw_inputs, to_text
from asimov_sync.web.wsgi import content_policy

__all__ = [
    "POLICY",
    "Frame",
    "ListQuery",
    "RunPage",
    "Typed",
    "draw_list_page",
    "draw_message",
    "draw_run_list",
    "draw_run_page",
    "draw_task_page",
    "draw_task_parts",
    "parse_moment",
]

POLICY = content_policy([STYLE], [SCRIPT])
"""The content security policy of every page."""

MAX_ROWS = 5000
"""The number of tasks that the page of a run lists."""

MAX_WAITS = 100
"""The number of waits that the page of a run shows: the first ones."""

MAX_TEXT = 20_000
"""The length to which a prompt, data or arguments are shortened, in characters."""


class Frame(NamedTuple):
    """The values that all pages show.

    url: returns the address of a path below the application.
    title: the title of all pages.
    user: who looks at the page.
    now: the present moment, in seconds since the epoch.
    notes: messages to show above the page, each with "good", "bad" or "".
    csrf: the token for forms; empty for a page without forms.
    """

    url: Callable[[str], str]
    title: str
    user: str
    now: float
    notes: Tuple[Tuple[str, str], ...] = ()
    csrf: str = ""


class Typed(NamedTuple):
    """The input of a form that was not accepted.

    wait: the digest of the wait.
    values: the values by the names of the inputs.
    problem: what is wrong.
    """

    wait: str
    values: Mapping[str, str]
    problem: str


def draw_page(
    frame: Frame,
    title: str,
    bar: str,
    content: str,
    live: str = "",
    poll: str = "",
    sequence: int = 0,
) -> str:
    """Return a whole page.

    bar: the links at its top, as HTML.
    live, poll: the address of its updates, as server-sent events or as JSON that is asked for every
        3 seconds; empty for a page that does not change.
    sequence: the number of the last event that it shows.
    """
    notes = "".join(
        f'<p class="note {kind}" role="status">{escape(text)}</p>' for kind, text in frame.notes
    )
    pulse = '<span class="pulse" role="status"></span>' if live or poll else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n"
        f'<body class="asy">\n<main data-now="{frame.now:.3f}" data-live="{escape(live)}" '
        f'data-poll="{escape(poll)}" data-sequence="{sequence}">\n'
        f'<nav class="bar">{bar}<span class="space"></span>{pulse}'
        f"<bdi>{escape(shorten(frame.user, 80))}</bdi></nav>{notes}\n{content}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def draw_message(frame: Frame, status: int, text: str) -> str:
    """Return the page of an error."""
    bar = f'<a href="{escape(frame.url("/"))}">Runs</a>'
    return draw_page(frame, f"{status}", bar, f"<h1>{status}</h1><p>{escape(text)}</p>")


# The list


class ListQuery(NamedTuple):
    """The filters of a list of runs.

    statuses: the statuses to show; empty for all.
    tag: "name=value", or empty.
    since, until: moments as they were typed, in UTC; empty for none.
    after: the id of the last run of the page before; empty for the first page.
    """

    statuses: Tuple[RunStatus, ...] = ()
    tag: str = ""
    since: str = ""
    until: str = ""
    after: str = ""

    def address(self, **changes: Any) -> str:
        """Return the query of an address with these filters and some changes."""
        changed = self._replace(**changes)
        pairs = [("status", status.value) for status in changed.statuses]
        fields = ("tag", "since", "until", "after")
        pairs += [(name, getattr(changed, name)) for name in fields if getattr(changed, name)]
        return f"?{urlencode(pairs)}" if pairs else ""


def draw_run_list(
    frame: Frame, query: ListQuery, runs: Sequence[RunRecord], counts: Mapping[str, int], more: bool
) -> Dict[str, Any]:
    """Return the parts of a list of runs that change: see `RunPage.update`."""
    chips = [_draw_chip(frame, query, None, sum(counts.values()))]
    for status in RunStatus:
        count = counts.get(status.value, 0)
        if count or status in query.statuses:
            chips.append(_draw_chip(frame, query, status, count))
    items = {run.run_id: _draw_run(frame, run) for run in runs}
    pages = []
    if query.after:
        pages.append(f'<a href="{escape(frame.url("/") + query.address(after=""))}">Newest</a>')
    if more:
        older = query.address(after=runs[-1].run_id)
        pages.append(f'<a rel="next" href="{escape(frame.url("/") + older)}">Older</a>')
    empty = ""
    if not runs:
        filtered = query != ListQuery()
        empty = "No run fits these filters." if filtered else "There are no runs yet."
        empty = f'<p class="empty">{empty}</p>'
    return {
        "sections": {"chips": "".join(chips), "pager": "".join(pages), "empty": empty},
        "lists": {"runs": {"keys": list(items), "items": items}},
    }


def _draw_chip(frame: Frame, query: ListQuery, status: Optional[RunStatus], count: int) -> str:
    if status is None:
        on, kind, label = not query.statuses, "", "all"
        address = query.address(statuses=(), after="")
    else:
        on, kind, label = status in query.statuses, kind_of_run(status.value), status.value
        chosen = tuple(one for one in query.statuses if one is not status)
        address = query.address(statuses=chosen if on else (*chosen, status), after="")
    sign = draw_sign(kind) if kind else ""
    current = ' aria-current="true"' if on else ""
    return (
        f'<a class="chip s-{kind}{" on" if on else ""}"{current} '
        f'href="{escape(frame.url("/") + address)}">{sign}{label} <b>{count:,}</b></a>'
    )


def _draw_run(frame: Frame, run: RunRecord) -> str:
    kind = kind_of_run(run.status.value)
    tags = "".join(
        f'<span class="tag"><bdi>{escape(shorten(name, 60))}={escape(shorten(value, 60))}</bdi>'
        "</span>"
        for name, value in list(run.tags.items())[:8]
    )
    flow = f"<small>{escape(shorten(run.flow, 80))}</small>" if run.flow is not None else ""
    why = ""
    if run.error:
        why = f'<span class="why"><bdi>{escape(shorten(run.error, 300))}</bdi></span>'
    return (
        f'<a class="row s-{kind}" data-key="{escape(run.run_id)}" '
        f'href="{escape(run_url(frame, run.run_id))}">{draw_sign(kind)}'
        f'<span class="name"><bdi>{escape(run.run_id)}</bdi>{flow}{tags}</span>'
        f'<span class="state">{escape(run.status.value)}</span>'
        f'<span class="number seconds">{format_seconds(run.seconds)}</span>'
        f'<span class="number tokens">{format_time(run.created.timestamp())}</span>{why}</a>'
    )


def draw_list_page(frame: Frame, query: ListQuery, parts: Dict[str, Any], poll: str) -> str:
    """Return the page with the list of runs.

    parts: what `draw_run_list` returns.
    poll: the address of its updates.
    """
    hidden = "".join(
        f'<input type="hidden" name="status" value="{status.value}">' for status in query.statuses
    )
    sections, runs = parts["sections"], parts["lists"]["runs"]["items"]
    fields = (
        ("tag", "text", "Tag", "name=value", query.tag),
        ("since", "datetime-local", "From (UTC)", "", query.since),
        ("until", "datetime-local", "Until (UTC)", "", query.until),
    )
    inputs = "".join(
        f'<label>{label}<input type="{kind}" name="{name}" placeholder="{hint}" '
        f'value="{escape(value)}"></label>'
        for name, kind, label, hint, value in fields
    )
    content = (
        f"<h1>{escape(frame.title)}</h1>"
        f'<section class="chips" id="s-chips" aria-label="Status">{sections["chips"]}</section>'
        f'<form class="filters" method="get" action="{escape(frame.url("/"))}">{hidden}{inputs}'
        "<button>Filter</button></form>"
        f'<div class="rows runs" id="l-runs">{"".join(runs.values())}</div>'
        f'<section id="s-empty">{sections["empty"]}</section>'
        f'<section class="pager" id="s-pager">{sections["pager"]}</section>'
    )
    return draw_page(frame, frame.title, "<span>Runs</span>", content, poll=poll)


# One run


def run_url(frame: Frame, run_id: str, rest: str = "") -> str:
    """Return the address of a run."""
    return frame.url(f"/runs/{run_id}{rest}")


def task_url(frame: Frame, run_id: str, name: str) -> str:
    """Return the address of a task of a run. The name is in the query: it may have any characters.

    A name with a lone surrogate is replaced, and then the page is not found.
    """
    encoded = quote(name.encode("utf-8", "replace"), safe="")
    return f"{run_url(frame, run_id, '/task')}?name={encoded}"


def row_key(name: str) -> str:
    """Return a key for the row of a task, whatever its name."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class RunPage:
    """The parts of the page of a run, at one moment.

    frame: the values that all pages show.
    run: the run.
    waits: what it waits for.
    read_only: whether the page has no forms.
    resumes: whether the application continues runs by itself.
    typed: what was typed into a form that could not be accepted.
    """

    def __init__(
        self,
        frame: Frame,
        run: LiveRun,
        waits: Sequence[Wait],
        read_only: bool,
        resumes: bool,
        typed: Optional[Typed] = None,
    ) -> None:
        self._frame = frame
        self._run = run
        self._waits = waits
        self._read_only = read_only
        self._resumes = resumes
        self._typed = typed

    def update(self, names: Optional[Iterable[str]] = None) -> Dict[str, Any]:
        """Return the parts as HTML: "sections" by name, and "lists" with their items by key.

        names: the tasks whose rows are needed; by default all.
        """
        return {
            "sections": self._draw_sections(),
            "lists": {"waits": self._draw_waits(), "tasks": {"items": self._draw_rows(names)}},
            "title": f"{self._run.record.status.value}: {self._run.record.run_id}",
        }

    def _draw_sections(self) -> Dict[str, str]:
        view, frame, record = self._run.view, self._frame, self._run.record

        def link(name: str) -> str:
            return task_url(frame, record.run_id, name)

        graph, timeline = "", ""
        if view.tasks:
            graph = graph_svg(view, link=link, style=False)
            graph = (
                '<h2>Graph</h2><div class="picture" tabindex="0" role="group" aria-label="Graph">'
                f"{graph}</div>{draw_legend(view)}"
            )
            now = frame.now if self._run.activities else None
            drawn = timeline_svg(view, now=now, link=link, style=False)
            if drawn:
                timeline = (
                    '<h2>Timeline</h2><div class="picture" tabindex="0" role="group" '
                    f'aria-label="Timeline">{drawn}</div>{SPAN_LEGEND}'
                )
        return {
            "head": draw_head(view),
            "state": self._draw_state(),
            "actions": self._draw_actions(),
            "waiting": self._draw_waiting(),
            "now": self._draw_now(),
            "graph": graph,
            "timeline": timeline,
            "usage": draw_usage(view),
        }

    def _draw_waiting(self) -> str:
        if not self._waits:
            return ""
        count = len(self._waits)
        more = ""
        if count > MAX_WAITS:
            more = f'<p class="quiet">The first {MAX_WAITS} of {count:,} are shown.</p>'
        return f"<h2>Waits for an answer</h2>{more}"

    def _draw_state(self) -> str:
        """Return what to do for a run that nobody drives."""
        record = self._run.record
        if record.status not in (RunStatus.INTERRUPTED, RunStatus.ORPHANED):
            return ""
        if self._resumes:
            return ""
        return f'<p class="note">{how_to_continue(record)}</p>'

    def _draw_actions(self) -> str:
        if self._read_only:
            return ""
        record, buttons = self._run.record, []
        if not self._run.has_ended:
            buttons.append(self._draw_button("cancel", "Cancel the run", "stop"))
        if record.status in (RunStatus.FAILED, RunStatus.PARTIAL):
            buttons.append(self._draw_button("retry", "Run the failed tasks again", ""))
        return f'<div class="buttons">{"".join(buttons)}</div>' if buttons else ""

    def _draw_button(self, action: str, label: str, kind: str) -> str:
        address = run_url(self._frame, self._run.record.run_id, f"/{action}")
        return (
            f'<form method="post" action="{escape(address)}">{self._csrf()}'
            f'<button class="{kind}">{label}</button></form>'
        )

    def _csrf(self) -> str:
        return f'<input type="hidden" name="csrf" value="{escape(self._frame.csrf)}">'

    def _draw_now(self) -> str:
        activities = self._run.activities
        if not activities:
            return ""
        shown = list(activities.values())[:50]
        more = len(activities) - len(shown)
        rest = f'<p class="quiet">and {more} more</p>' if more else ""
        items = "".join(self._draw_activity(one) for one in shown)
        return f'<h2>Running now</h2><ul class="now">{items}</ul>{rest}'

    def _draw_activity(self, one: Activity) -> str:
        address = task_url(self._frame, self._run.record.run_id, one.name)
        elapsed = format_seconds(max(0.0, self._frame.now - one.started))
        bar = ""
        if one.fraction is not None:
            bar = f'<progress max="1" value="{min(1.0, max(0.0, one.fraction)):.3f}"></progress>'
        texts = [text for text in (one.progress, one.text) if text]
        tails = "".join(
            f'<p class="tail" dir="auto"><span>{escape(text)}</span></p>' for text in texts
        )
        attempt = f"<small>attempt {one.attempt}</small>" if one.attempt > 1 else ""
        return (
            f'<li class="s-executing"><div class="line">{draw_sign("executing")}'
            f'<a class="name" href="{escape(address)}"><bdi>{escape(shorten(one.name, 200))}</bdi>'
            f'</a>{attempt}<span class="number" data-since="{one.started:.3f}">{elapsed}</span>'
            f"</div>{bar}{tails}</li>"
        )

    # Tasks

    def _draw_rows(self, names: Optional[Iterable[str]]) -> Dict[str, str]:
        wanted = None if names is None else set(names)
        return {
            row_key(task.name): self._draw_row(task)
            for task in self._run.view.tasks[:MAX_ROWS]
            if wanted is None or task.name in wanted
        }

    def _draw_row(self, task: TaskView) -> str:
        kind = f"s-{task.status.replace(' ', '-')}"
        type_of = f"<small>{escape(task.type)}</small>" if task.type != task.name else ""
        why = ""
        if task.error:
            why = f'<span class="why"><bdi>{escape(shorten(task.error, 300))}</bdi></span>'
        address = task_url(self._frame, self._run.record.run_id, task.name)
        return (
            f'<a class="row {kind}" data-key="{row_key(task.name)}" href="{escape(address)}">'
            f'{draw_sign(task.status)}<span class="name"><bdi>{escape(shorten(task.name, 200))}'
            f'</bdi>{type_of}</span><span class="state">{escape(task.status)}</span>'
            f'<span class="number seconds">{format_seconds(task.seconds)}</span>'
            f'<span class="number tokens">{format_usage(task.usage)}</span>{why}</a>'
        )

    # Waits

    def _draw_waits(self) -> Dict[str, Any]:
        items = {call_digest(wait): self._draw_wait(wait) for wait in self._waits[:MAX_WAITS]}
        return {"keys": list(items), "items": items}

    def _draw_wait(self, wait: Wait) -> str:
        digest = call_digest(wait)
        typed = self._typed if self._typed is not None and self._typed.wait == digest else None
        run_id = self._run.record.run_id
        about = f"task <bdi>{escape(shorten(wait.task, 200))}</bdi>"
        if wait.deadline is not None:
            about += f" · until {format_time(wait.deadline)}"
        title = escape(shorten(wait.name, 200))
        if wait.call is not None:
            title = f"May it call {escape(shorten(wait.call.name, 200))}?"
        parts = [f'<h3><bdi>{title}</bdi></h3><p class="about">{about}</p>']
        if wait.prompt and wait.call is None:
            prompt = escape(shorten(wait.prompt, MAX_TEXT))
            parts.append(f'<p class="prompt" dir="auto">{prompt}</p>')
        if wait.data is not None:
            parts.append(f"<pre>{escape(shorten(to_text(wait.data), MAX_TEXT))}</pre>")
        if wait.call is not None:
            arguments = to_text(wait.call.arguments)
            parts.append(f"<pre>{escape(shorten(arguments, MAX_TEXT))}</pre>")
        if typed is not None:
            parts.append(f'<p class="note bad" role="alert">{escape(typed.problem)}</p>')
        if self._read_only:
            parts.append(f'<p class="hint">{_how_to_answer(run_id, wait)}</p>')
        else:
            parts.append(self._draw_form(wait, digest, {} if typed is None else typed.values))
        return f'<article class="wait" data-key="{digest}">{"".join(parts)}</article>'

    def _draw_form(self, wait: Wait, digest: str, typed: Mapping[str, str]) -> str:
        run_id = self._run.record.run_id
        action = "answer" if wait.call is None else "approve"
        hidden = self._csrf() + f'<input type="hidden" name="shown" value="{digest}">'
        if wait.call is None:
            inputs = draw_inputs(wait, typed, f"w{digest[:8]}")
            buttons = '<button class="main">Answer</button>'
        else:
            inputs = self._draw_decision(wait, digest, typed)
            buttons = '<button class="stop" name="decision" value="refuse">Refuse</button>'
            if len(to_text(wait.call.arguments)) <= MAX_TEXT:
                approve = '<button class="main" name="decision" value="approve">Approve</button>'
                buttons = approve + buttons
            else:  # nobody approves what is not shown
                inputs = (
                    '<p class="hint">The arguments are too long to be shown whole, so they cannot '
                    "be approved here. Read and approve them in a program, by "
                    f"<code>store.approve({escape(repr(run_id))}, …)</code>.</p>{inputs}"
                )
        address = run_url(self._frame, run_id, f"/{action}")
        return (
            f'<form method="post" action="{escape(address)}">{hidden}{inputs}'
            f'<div class="buttons">{buttons}</div></form>'
        )

    def _draw_decision(self, wait: Wait, digest: str, typed: Mapping[str, str]) -> str:
        assert wait.call is not None
        id = f"w{digest[:8]}"
        text = typed.get("arguments", to_text(wait.call.arguments))
        changes = ""
        # A text that is too long to show cannot be edited, either.
        if len(text) <= MAX_TEXT:
            rows = min(16, max(3, text.count("\n") + 2))
            is_open = " open" if "arguments" in typed else ""
            changes = (
                f"<details{is_open}><summary>Change the arguments</summary>"
                f'<div class="field"><label for="{id}-a">Arguments as JSON</label>'
                f'<textarea class="code" rows="{rows}" spellcheck="false" id="{id}-a" '
                f'name="arguments">\n{html.escape(text)}</textarea></div></details>'
            )
        return (
            f'{changes}<div class="field"><label for="{id}-r">Reason for a refusal '
            f'<span class="quiet">optional, for the model</span></label><input type="text" '
            f'id="{id}-r" name="reason" value="{html.escape(typed.get("reason", ""))}"></div>'
        )


def how_to_continue(record: RunRecord) -> str:
    """Return what to run so that a run without a driver continues, as HTML."""
    if record.flow is None:
        return (
            "No process drives this run. It continues when its program calls "
            f"<code>scheduler.run(graph, run_id={escape(repr(record.run_id))})</code> again."
        )
    return (
        "No process drives this run. It continues where "
        "<code>asimov-sync work module:scheduler</code> is running, or after "
        f"<code>scheduler.resume({escape(repr(record.run_id))})</code>."
    )


def _how_to_answer(run_id: str, wait: Wait) -> str:
    if wait.call is None:
        call = f"store.answer({run_id!r}, {wait.name!r}, …)"
    else:
        call = f"store.approve({run_id!r}, {{{wait.name!r}: True}})"
    return f"This page is read-only. In a program: <code>{escape(shorten(call, 500))}</code>"


def draw_run_page(frame: Frame, run: LiveRun, update: Dict[str, Any], live: str) -> str:
    """Return the page of a run.

    update: its parts.
    live: the address of its updates; empty if it has ended.
    """
    sections, lists = update["sections"], update["lists"]
    rows = lists["tasks"]["items"]
    left_out = len(run.view.tasks) - len(rows)
    more = f'<p class="quiet">and {left_out:,} more tasks</p>' if left_out > 0 else ""

    def section(name: str) -> str:
        return f'<section id="s-{name}">{sections[name]}</section>'

    content = (
        section("head")
        + section("state")
        + section("actions")
        + section("waiting")
        + f'<div id="l-waits">{"".join(lists["waits"]["items"].values())}</div>'
        + section("now")
        + section("graph")
        + section("timeline")
        + section("usage")
        + '<h2 id="tasks">Tasks</h2>'
        + f'<div class="rows" id="l-tasks">{"".join(rows.values())}</div>{more}'
    )
    bar = f'<a href="{escape(frame.url("/"))}">Runs</a>'
    return draw_page(frame, update["title"], bar, content, live, sequence=run.sequence)


# One task


def draw_task_parts(
    frame: Frame, run: LiveRun, task: TaskView, conversations: Sequence[Sequence[ChatMessage]]
) -> Dict[str, Any]:
    """Return the parts of the page of a task: see `RunPage.update`.

    conversations: what its agents have stored so far.
    """
    figures = [format_seconds(task.seconds), format_usage(task.usage)]
    known = " · ".join(text for text in figures if text)
    head = f'{draw_status(task.status)}<span class="quiet">{known}</span>'
    if task.waits:
        address = run_url(frame, run.record.run_id)
        head += f'<a href="{escape(address)}#s-waiting">Answer on the page of the run</a>'
    content = ""
    for number, messages in enumerate(conversations, 1):
        title = "Conversation so far" if len(conversations) == 1 else f"Conversation {number}"
        content += f"<h2>{title}</h2>{draw_messages(view_messages(messages))}"
    sections = {"head": head, "task": draw_task(task), "conversations": content}
    return {"sections": sections, "lists": {}}


def draw_task_page(
    frame: Frame, run: LiveRun, task: TaskView, parts: Dict[str, Any], poll: str
) -> str:
    """Return the page of a task.

    parts: what `draw_task_parts` returns.
    poll: the address of its updates; empty if it does not change any more.
    """
    run_id = run.record.run_id
    type_of = f' <small class="quiet">{escape(task.type)}</small>' if task.type != task.name else ""
    sections = "".join(
        f'<section id="s-{name}">{text}</section>' for name, text in parts["sections"].items()
    )
    content = (
        f"<header><h1><bdi>{escape(task.name)}</bdi>{type_of}</h1></header>"
        f'<div class="body task-page">{sections}</div>'
    )
    bar = (
        f'<a href="{escape(frame.url("/"))}">Runs</a><span>/</span>'
        f'<a href="{escape(run_url(frame, run_id))}"><bdi>{escape(run_id)}</bdi></a>'
    )
    return draw_page(frame, f"{task.name} – {run_id}", bar, content, poll=poll)


def parse_moment(text: str) -> Optional[datetime.datetime]:
    """Return a moment in UTC of a text as browsers send it; None for an empty one.

    Raises ValueError for another text.
    """
    if not text:
        return None
    for form in ("%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        try:
            return datetime.datetime.strptime(text, form).replace(tzinfo=datetime.timezone.utc)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is not a moment, such as 2026-11-28T09:30")
