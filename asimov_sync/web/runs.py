"""Durable runs for browsers: follow their events, and give the answers that they wait for."""

from typing import Any, Dict, Iterator, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.inference.tools.approvals import Approval, Refused
from asimov_sync.runs.status import RunStatus
from asimov_sync.runs.store import RunStore
from asimov_sync.web.browser_request import BrowserRequest
from asimov_sync.web.fold import question_id

__all__ = ["RunLog", "answer_waits", "follow"]


class RunLog(Iterator[Dict[str, Any]]):
    """The stored events of a run, as `RunStore.events` has them.

    Closing it ends the wait for the next event, also that of another thread, and nothing else: the
    run continues.
    """

    def __init__(self, store: RunStore, run_id: str, after: Optional[int]) -> None:
        self._cancellation = Cancellation()
        self._events = store.events(run_id, after=after, cancellation=self._cancellation)
        self._first: Optional[Dict[str, Any]] = None

    def peek(self) -> Optional[Dict[str, Any]]:
        """Return the next event, which is read later; None if there is none. May wait for it."""
        if self._first is None:
            self._first = next(self._events, None)
        return self._first

    def __next__(self) -> Dict[str, Any]:
        first, self._first = self._first, None
        return next(self._events) if first is None else first

    def close(self) -> None:
        """End the iteration."""
        self._cancellation.cancel("the events were closed")


def follow(store: RunStore, run_id: str, after: Optional[int] = None) -> Optional[RunLog]:
    """Follow a durable run that another thread or process drives, for a browser that reconnects.

    Encode the events with `sse`, `ui_message_stream` or `ag_ui`. A browser that leaves ends only
    the response.

    run_id: the id of the run.
    after: the number of the last event that the browser knows (see `read_last_event_id`); by
        default all events are sent.

    Returns an iterator over the events, or None if the run is not driven and has no later events.
    Answer 204 then: an EventSource stops at that, and the AI SDK has nothing to resume. Raises
    KeyError if there is no such run.
    """
    log = RunLog(store, run_id, after)
    if store.get(run_id).status is RunStatus.RUNNING:
        return log
    return None if log.peek() is None else log


def answer_waits(
    store: RunStore, run_id: str, request: BrowserRequest, *, by: Optional[str] = None
) -> bool:
    """Give a parked run the decisions and answers of a request.

    They are matched against what the stored run waits for, and the arguments of a call are those
    of the store. Afterwards, continue the run.

    run_id: the id of the run; check first that the user may decide about it.
    request: from `read_ui_messages` or `read_ag_ui`.
    by: who decides, to be stored with the decisions.

    Returns False if one of them was given already: the first counts. Raises KeyError if there is
    no such run, and ValueError for a decision about a call that does not wait or was changed, and
    for an answer to an unknown question or of the wrong type.
    """
    waits = store.waits(run_id)
    questions = {question_id(wait.task, wait.name): wait for wait in waits if wait.call is None}
    unknown = [answer for answer in request.answers if answer not in questions]
    if unknown:
        raise ValueError(f"the run {run_id!r} does not wait for an answer to {unknown[0]!r}")
    approvals: Dict[str, Approval] = {
        call_id: approval
        for call_id, approval in request.approvals.items()
        if not (call_id in questions and isinstance(approval, Refused))  # AG-UI: not answered
    }
    first = store.approve(run_id, approvals, by=by) if approvals else True
    for question, answer in request.answers.items():
        wait = questions[question]
        first = store.answer(run_id, wait.name, answer, task=wait.task, by=by) and first
    return first
