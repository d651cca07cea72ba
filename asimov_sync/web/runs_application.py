"""runs_app: a WSGI application that shows durable runs live, and answers what they wait for.

====  ========================  ==================================================================
GET   /                         the list of runs; `Accept: application/json` for its changing parts
GET   /runs/ID                  one run
GET   /runs/ID/live             its updates, as server-sent events
GET   /runs/ID/task?name=NAME   one task
POST  /runs/ID/ACTION           answer, approve, cancel, retry
====  ========================  ==================================================================
"""

import hashlib
import json
import re
import time
import urllib.parse
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from asimov_sync._json import format_error
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.display.markup import shorten
from asimov_sync.errors import CacheError, StoredFormatError
from asimov_sync.graph.journal import Wait
from asimov_sync.inference.tools.approvals import Approved, Refused
from asimov_sync.runs.status import ENDED, RunStatus
from asimov_sync.runs.store import RunStore
from asimov_sync.web.conversations import read_conversation
from asimov_sync.web.guards import (
    Authorize,
    CallerGuard,
    Guard,
    check_write,
    csrf_cookie,
    known_csrf,
)
from asimov_sync.web.live_run import Follower, LiveRun
from asimov_sync.web.run_pages import (
    POLICY,
    Frame,
    ListQuery,
    RunPage,
    Typed,
    draw_list_page,
    draw_message,
    draw_run_list,
    draw_run_page,
    draw_task_page,
    draw_task_parts,
    parse_moment,
)
from asimov_sync.web.wait_forms import FormError, call_digest, read_answer, read_arguments
from asimov_sync.web.wsgi import HttpError, Reply, Request, send

__all__ = ["RunsApp", "runs_app"]

logger = get_logger("asimov_sync.web")

PAGE_SIZE = 50
"""The number of runs on a page of the list."""

KEEP_ALIVE = 5.0
"""The longest silence of a held connection, in seconds: the server notices then that it is gone."""

HOLD_SECONDS = 300.0
"""The seconds for which a connection is held. The next one is authorized anew."""

IDLE_SECONDS = 1.0
"""The time between two looks at a run without a driver, in seconds."""

POLL_MILLISECONDS = 1500
"""The time after which a browser asks again, where connections are not held."""

MIN_INTERVAL = 0.25
MAX_INTERVAL = 5.0
"""The shortest and the longest time between two updates of a page, in seconds. In between it is
four times what the last one took, so that a page takes at most a fifth of a core."""

Resume = Callable[[str], Any]
StartResponse = Callable[..., Any]

NOTES: Mapping[str, Tuple[str, str]] = {
    "answered": ("good", "The answer is stored."),
    "approved": ("good", "The call is approved."),
    "refused": ("good", "The call is refused."),
    "cancelled": ("good", "The run is being cancelled."),
    "retried": ("good", "The failed tasks run again when the run continues."),
    "late": ("bad", "Somebody else has answered before. The first answer counts."),
    "ended": ("bad", "The run has ended already."),
    "nothing": ("bad", "The run has no failed task, or has not ended."),
    "stuck": ("bad", "It is stored, but the run could not be continued from here. See the log."),
}
"""The kind and the text of the message that a page shows after each action."""


def runs_app(
    store: RunStore,
    *,
    authorize: Optional[Authorize] = None,
    read_only: bool = True,
    resume: Optional[Resume] = None,
    title: str = "Runs",
) -> "RunsApp":
    """Return a WSGI application that shows the durable runs of a store.

    It works below any path, and needs no files and no session of its own. A page follows its run by
    server-sent events if the server has several threads (`wsgi.multithread`); otherwise the browser
    asks every 1.5 seconds, so that no worker is occupied.

    store: the store.
    authorize: called with the WSGI environment of each request; returns the name of the user, which
        is stored with their answers, or None to refuse the request. A user who is admitted sees
        all runs of the store. It may raise what the embedding framework handles.
    read_only: whether the pages have no forms, and every write is refused; default True.
    resume: called with the id of a run that has something to do and no driver, after an answer or a
        retry. It must return soon: have a worker continue the run. By default the page says what to
        run.
    title: the title of the list; default "Runs".

    Raises ValueError without `authorize`: runs contain what their users wrote. On this machine, the
    command `asimov-sync serve` needs none.
    """
    if not isinstance(store, RunStore):
        raise TypeError(f"runs_app() shows the runs of a RunStore, not of {store!r}")
    if authorize is None:
        raise ValueError(
            "runs_app() needs authorize=, a function that returns the user of a WSGI environment "
            "or None; to look at runs on this machine alone, use the command asimov-sync serve"
        )
    return RunsApp(store, CallerGuard(authorize), read_only, resume, title)


class RunsApp:
    """The WSGI application. `runs_app` makes it.

    store: the store.
    guard: decides who may make a request.
    read_only, resume, title: as in `runs_app`.
    """

    def __init__(
        self,
        store: RunStore,
        guard: Guard,
        read_only: bool,
        resume: Optional[Resume],
        title: str,
    ) -> None:
        self._store = store
        self._guard = guard
        self._read_only = read_only
        self._resume = resume
        self._title = title

    def __call__(self, environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, as PEP 3333 has it."""
        method = environ.get("REQUEST_METHOD", "GET").upper()
        try:
            request = Request(environ)
            admitted = self._guard.admit(request)
        except HttpError as error:
            # The reply says nothing of the application to somebody who is not admitted.
            body = [f"{error.message}\n".encode()]
            reply = Reply(error.status, body, "text/plain; charset=utf-8")
            return send(reply, POLICY, method, start_response)
        reply_or_none = admitted.reply
        if reply_or_none is None:
            reply_or_none = self._answer(request, admitted.user)
        return send(reply_or_none, POLICY, method, start_response)

    def _answer(self, request: Request, user: str) -> Reply:
        try:
            try:
                return self._route(request, user)
            except KeyError:
                raise HttpError(404, "There is no such run any more.") from None
            except (CacheError, StoredFormatError) as error:
                logger.warning("a page of runs could not be made: %s", format_error(error))
                raise HttpError(503, f"The store cannot be read: {format_error(error)}") from error
        except HttpError as error:
            frame = self._frame(request, user, "")
            page = draw_message(frame, error.status, error.message)
            return _html(page, error.status, error.headers)

    def _route(self, request: Request, user: str) -> Reply:
        if request.path == "/":
            _require(request, "GET")
            return self._show_list(request, user)
        match = PATH.match(request.path)
        if match is None:
            raise HttpError(404, "There is no such page.")
        run_id, action = match.group("run"), match.group("action") or ""
        if action in ACTIONS:
            _require(request, "POST")
            return self._write(request, user, run_id, action)
        _require(request, "GET")
        if action == "live":
            return self._show_updates(request, user, run_id)
        if action == "task":
            return self._show_task(request, user, run_id, request.get("name"))
        return self._show_run(request, user, run_id)

    def _frame(self, request: Request, user: str, csrf: str) -> Frame:
        note = NOTES.get(request.get("done"))
        notes = () if note is None or request.method == "POST" else (note,)
        return Frame(request.url, self._title, user, time.time(), notes, csrf)

    # The list

    def _show_list(self, request: Request, user: str) -> Reply:
        try:
            query = _read_query(request)
            tags = _read_tag(query.tag)
            since, until = parse_moment(query.since), parse_moment(query.until)
        except ValueError as error:
            raise HttpError(400, str(error)) from None
        runs = self._store.list(
            status=list(query.statuses) or None,
            tags=tags,
            since=since,
            until=until,
            after=query.after or None,
            limit=PAGE_SIZE + 1,
        )
        frame = self._frame(request, user, "")
        more = len(runs) > PAGE_SIZE
        parts = draw_run_list(frame, query, runs[:PAGE_SIZE], self._store.stats(), more)
        address = request.url("/") + query.address()
        if _wants_json(request):
            return _json(parts)
        return _html(draw_list_page(frame, query, parts, address))

    # One run

    def _show_run(
        self, request: Request, user: str, run_id: str, typed: Optional[Typed] = None
    ) -> Reply:
        csrf, headers = ("", ()) if self._read_only else csrf_cookie(request)
        run = Follower(self._store, run_id).read()
        page = self._make_page(request, user, run, csrf, typed)
        live = "" if run.has_ended else request.url(f"/runs/{run_id}/live")
        html = draw_run_page(self._frame(request, user, csrf), run, page.update(), live)
        return _html(html, 200 if typed is None else 422, headers)

    def _make_page(
        self,
        request: Request,
        user: str,
        run: LiveRun,
        csrf: str,
        typed: Optional[Typed] = None,
    ) -> RunPage:
        waits = self._waits(run)
        frame = self._frame(request, user, csrf)
        return RunPage(frame, run, waits, self._read_only, self._resume is not None, typed)

    def _waits(self, run: LiveRun) -> List[Wait]:
        return [] if run.has_ended else self._store.waits(run.record.run_id)

    def _show_task(self, request: Request, user: str, run_id: str, name: str) -> Reply:
        run = Follower(self._store, run_id).read(with_transcripts=True)
        task = next((one for one in run.view.tasks if one.name == name), None)
        if task is None:
            raise HttpError(404, "There is no such task in the run.")
        transcripts = self._store.read_transcripts(run_id, name)
        frame = self._frame(request, user, "")
        conversations = [read_conversation(entries) for entries in transcripts]
        parts = draw_task_parts(frame, run, task, conversations)
        if _wants_json(request):
            return _json(parts)
        poll = ""
        if not run.has_ended:
            poll = f"{request.url(f'/runs/{run_id}/task')}?name={urllib.parse.quote(name, safe='')}"
        return _html(draw_task_page(frame, run, task, parts, poll))

    # Updates

    def _show_updates(self, request: Request, user: str, run_id: str) -> Reply:
        known = request.header("HTTP_LAST_EVENT_ID") or request.get("after") or "0"
        match = POSITION.match(known)
        if match is None:
            raise HttpError(400, "after= is the id of an update.")
        after, digest = int(match.group(1)), match.group(2) or ""
        follower = Follower(self._store, run_id)
        run = follower.read()
        csrf = "" if self._read_only else known_csrf(request)
        updates = _until_lost(
            run_id, self._follow(request, user, follower, run, after, digest, csrf)
        )
        headers = (("X-Accel-Buffering", "no"),)
        return Reply(200, updates, "text/event-stream; charset=utf-8", headers)

    def _follow(
        self,
        request: Request,
        user: str,
        follower: Follower,
        run: LiveRun,
        after: int,
        digest: str,
        csrf: str,
    ) -> Iterator[bytes]:
        """Return the updates of a page, as server-sent events.

        Where the connection must not be held, there is one at most, and the browser asks again.

        after, digest: the last update that the browser has; 0 and empty for none.
        """
        hold = request.may_hold and request.get("hold") != "no"
        yield f"retry: {POLL_MILLISECONDS}\n\n".encode()
        names = follower.names_after(after) if after else None  # None: all
        follower.take_changed()
        end = clock.real() + HOLD_SECONDS
        seen: Dict[str, Any] = {}
        while True:
            started = clock.real()
            update = self._make_page(request, user, run, csrf).update(names)
            changed = _only_changed(update, seen)
            before, digest = digest, _digest(update)
            position = f"{run.sequence}.{digest}"
            if changed is not None and (digest != before or names):
                yield _event("update", changed, position)
            if run.has_ended:
                yield _event("end", {}, position)
                return
            if not hold or started > end:
                return
            interval = 4 * (clock.real() - started)
            Cancellation.current().wait(min(MAX_INTERVAL, max(MIN_INTERVAL, interval)))
            while True:
                state, waited = _state(run), clock.real()
                follower.wait(KEEP_ALIVE)
                run = follower.read()
                names = follower.take_changed()
                if names or _state(run) != state:
                    break
                if clock.real() - waited < IDLE_SECONDS:  # there is no driver to wait for
                    Cancellation.current().wait(IDLE_SECONDS)
                yield b": waiting\n\n"
                if clock.real() > end:
                    return

    # Writes

    def _write(self, request: Request, user: str, run_id: str, action: str) -> Reply:
        if self._read_only:
            raise HttpError(403, "This page is read-only.")
        form = request.read_form()
        check_write(request, form)
        if action == "cancel":
            done = self._store.cancel(run_id, f"cancelled by {user}")
            return self._go_back(request, run_id, "cancelled" if done else "ended")
        if action == "retry":
            done = self._store.retry(run_id)
            outcome = self._continue(run_id, "retried") if done else "nothing"
            return self._go_back(request, run_id, outcome)
        shown = form.get("shown", "")
        waits = self._store.waits(run_id)
        wait = next((one for one in waits if call_digest(one) == shown), None)
        if wait is None:
            return self._go_back(request, run_id, "late")
        try:
            outcome = self._decide(run_id, wait, action, form, user)
        except (TypeError, ValueError) as error:
            typed = Typed(shown, form, shorten(str(error), 2000))
            return self._show_run(request, user, run_id, typed)
        if outcome != "late":
            outcome = self._continue(run_id, outcome)
        return self._go_back(request, run_id, outcome)

    def _decide(
        self, run_id: str, wait: Wait, action: str, form: Mapping[str, str], user: str
    ) -> str:
        """Store an answer or a decision. Returns the name of the note for it."""
        if action == "answer":
            if wait.call is not None:
                raise FormError("this waits for an approval")
            message = read_answer(wait, form)
            stored = self._store.answer(run_id, wait.name, message, task=wait.task, by=user)
            return "answered" if stored else "late"
        if wait.call is None:
            raise FormError("this waits for an answer")
        decision = form.get("decision")
        if decision == "approve":
            # Bound to the call that was shown: the digest in the form is that of this wait.
            approval: Any = Approved(wait.call, read_arguments(wait, form))
        elif decision == "refuse":
            approval = Refused(form.get("reason", "").strip())
        else:
            raise FormError("choose to approve or to refuse")
        stored = self._store.approve(run_id, {wait.name: approval}, task=wait.task, by=user)
        if not stored:
            return "late"
        return "approved" if decision == "approve" else "refused"

    def _continue(self, run_id: str, outcome: str) -> str:
        """Have a run continued that nobody drives. Returns the name of the note."""
        if self._resume is None:
            return outcome
        record = self._store.get(run_id)
        if record.status is RunStatus.RUNNING or record.status in ENDED:
            return outcome
        try:
            self._resume(run_id)
        except Exception:
            logger.exception("resume= failed for run %s", run_id, extra={"run_id": run_id})
            return "stuck"
        return outcome

    def _go_back(self, request: Request, run_id: str, outcome: str) -> Reply:
        address = request.url(f"/runs/{run_id}") + f"?done={outcome}"
        return Reply(303, [], headers=(("Location", address),))

    def __repr__(self) -> str:
        mode = "read-only" if self._read_only else "writable"
        return f"<RunsApp of {self._store!r}, {mode}>"


POSITION = re.compile(r"([0-9]{1,15})(?:\.([0-9a-f]{16}))?\Z")

ACTIONS = ("answer", "approve", "cancel", "retry")

PATH = re.compile(
    r"/runs/(?P<run>[A-Za-z0-9._:@-]{1,200})"
    r"(?:/(?P<action>live|task|answer|approve|cancel|retry))?/?\Z"
)


def _require(request: Request, method: str) -> None:
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        allowed = "GET, HEAD" if method == "GET" else method
        raise HttpError(405, f"This address takes {method} only.", (("Allow", allowed),))


def _wants_json(request: Request) -> bool:
    return "application/json" in (request.header("HTTP_ACCEPT") or "")


def _read_query(request: Request) -> ListQuery:
    statuses = request.query.get("status", [])
    known = {status.value: status for status in RunStatus}
    if not set(statuses) <= known.keys():
        raise ValueError("status= is one of " + ", ".join(known))
    chosen = tuple(dict.fromkeys(known[one] for one in statuses))
    fields = {name: request.get(name)[:500] for name in ("tag", "since", "until", "after")}
    return ListQuery(chosen, **fields)


def _read_tag(text: str) -> Optional[Dict[str, str]]:
    if not text:
        return None
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError("a tag is written as name=value")
    return {name.strip(): value.strip()}


def _until_lost(run_id: str, updates: Iterator[bytes]) -> Iterator[bytes]:
    """Return updates, until the run is deleted or its store fails. The browser asks again then, and
    the reply to that says what happened."""
    try:
        yield from updates
    except (KeyError, CacheError, StoredFormatError) as error:
        logger.warning("the updates of run %s have ended: %s", run_id, format_error(error))


def _state(run: LiveRun) -> Tuple[Any, ...]:
    """Return what changes in a record when somebody writes it."""
    record = run.record
    return (record.status, record.updated, record.lease_until is None)


def _only_changed(update: Dict[str, Any], seen: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Return the parts of an update that were not sent yet; None if there are none.

    seen: the sections and lists as they were sent; updated.
    """
    sections = {name: html for name, html in update["sections"].items() if seen.get(name) != html}
    seen.update(sections)
    lists = {}
    for name, one in update["lists"].items():
        if (one["items"] or "keys" in one) and seen.get(f"list {name}") != one:
            lists[name] = seen[f"list {name}"] = one
    if not sections and not lists:
        return None
    return {"sections": sections, "lists": lists, "title": update["title"]}


def _digest(update: Dict[str, Any]) -> str:
    """Return a digest of what a page shows of its run, without the rows of tasks."""
    shown = json.dumps([update["sections"], update["lists"]["waits"]])
    return hashlib.sha256(shown.encode("ascii")).hexdigest()[:16]


def _event(kind: str, values: Dict[str, Any], position: str) -> bytes:
    return f"id: {position}\nevent: {kind}\ndata: {json.dumps(values)}\n\n".encode("ascii")


def _html(text: str, status: int = 200, headers: Tuple[Tuple[str, str], ...] = ()) -> Reply:
    return Reply(status, [text.encode("utf-8", "replace")], headers=headers)


def _json(values: Dict[str, Any]) -> Reply:
    return Reply(200, [json.dumps(values).encode("ascii")], "application/json")
