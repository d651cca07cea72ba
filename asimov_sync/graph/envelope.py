"""The values that travel between a run and the process that calls a handler.

An Envelope goes there, a CallReport comes back. Both are pickled, and travel over the executor's
own channel only.
"""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from asimov_sync.cache.address import CacheAddress
from asimov_sync.errors import BudgetExceeded, RemoteError
from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.journal import ErrorRecord
from asimov_sync.graph.node import Node
from asimov_sync.graph.results import Outcome
from asimov_sync.graph.stored_errors import rebuild_exception
from asimov_sync.graph.travel import restore
from asimov_sync.messages import Usage
from asimov_sync.spans import OpenSpan
from asimov_sync.usage import Budget, BudgetUsage

__all__ = ["CallEvent", "CallReport", "Envelope", "make_envelope"]


class Envelope(NamedTuple):
    """One attempt of a task, as the process that calls its handler needs it.

    run_id: the id of the run.
    node: the task with its params in this run, its Retry and its namespaces.
    number, visit, inputs, partial, failed, skipped, feedback: see Attempt.
    remaining: the seconds until the attempt is cancelled; None for no limit.
    publishes: whether progress and text have a receiver.
    budgets: for each budget that limits the attempt, a copy of its own.
    trace: the trace context, for the telemetry of the process.
    durable: whether the run is kept.
    cache: the address of the run's namespace of the scheduler's cache; None if it has none.
    call, channel: the id of the call, and the address of the cache through which it reaches the
        run; None without.
    by_value: whether what the main program defines travels as code.
    """

    run_id: str
    node: Node
    number: int
    visit: int
    inputs: Dict[str, Any]
    partial: Dict[str, str]
    failed: Dict[str, str]
    skipped: Dict[str, str]
    feedback: Dict[str, Any]
    remaining: Optional[float]
    publishes: bool
    budgets: Tuple[Budget, ...]
    trace: Mapping[str, str]
    durable: bool
    cache: Optional[CacheAddress]
    call: str
    channel: Optional[CacheAddress]
    by_value: bool


class CallEvent(NamedTuple):
    """The progress of an attempt, or a piece of a reply that it receives.

    reply: the number of the reply; 0 for progress.
    text: the piece, or the text of the progress.
    fraction, data: those of the progress.
    """

    reply: int
    text: str
    fraction: Optional[float] = None
    data: Any = None


class CallReport(NamedTuple):
    """The report of a call of a handler.

    outcome: without its result and exception.
    result: the pickle of the result.
    error: the exception as text, if the handler raised.
    exception: its pickle, if its class is known everywhere; otherwise None.
    refused_by: the index of the budget in the Envelope that refused a request; None without.
    usage: the tokens that the call used; None without requests.
    spent: for each budget in the Envelope, what was charged to it.
    events: the progress and the text of the call, in their order.
    spawned: the tasks that the handler has spawned, each with its `before_dependents`.
    spans: its requests and tool calls, with times from the beginning of the call on.
    """

    outcome: Outcome
    result: bytes
    error: Optional[ErrorRecord]
    exception: Optional[bytes]
    refused_by: Optional[int]
    usage: Optional[Usage]
    spent: Tuple[BudgetUsage, ...]
    events: List[CallEvent]
    spawned: List[Tuple[Node, bool]]
    spans: Tuple[OpenSpan, ...] = ()

    def rebuild_error(self, budgets: Sequence[Budget]) -> Optional[BaseException]:
        """Return the exception of the handler; None if it raised none.

        budgets: those in whose place the Envelope had copies.
        """
        if self.error is None:
            return None
        error = rebuild_exception(self.error)
        if self.exception is not None:
            try:
                error = restore(self.exception)
            except BaseException:  # what the classes of its attributes raise
                pass
        if self.refused_by is not None:
            refusal = error
            if not isinstance(error, BudgetExceeded):
                refusal = error.__cause__ = BudgetExceeded("a budget was used up")
            assert isinstance(refusal, BudgetExceeded)
            refusal.budget = budgets[self.refused_by]
        elif self.error.traceback and not isinstance(error, RemoteError):
            error.__cause__ = rebuild_exception(self.error._replace(type=""))
        return error


def make_envelope(
    attempt: Attempt,
    publishes: bool,
    budgets: Tuple[Budget, ...],
    trace: Mapping[str, str],
    durable: bool,
    cache: Optional[CacheAddress],
    call: str,
    channel: Optional[CacheAddress],
    by_value: bool,
) -> Envelope:
    """Return the envelope of an attempt.

    budgets: those that limit it, each of them once. The others: see Envelope.
    """
    node = attempt.node
    unused: Any = {"depends_on": (), "when": None, "handler": None, "middleware": ()}
    return Envelope(
        attempt.run_id,
        node._replace(task=node.copy_task(), params=None, **unused),
        attempt.number,
        attempt.visit,
        dict(attempt.inputs),
        attempt.partial,
        attempt.failed,
        attempt.skipped,
        attempt.feedback,
        attempt.cancellation.remaining,
        publishes,
        tuple(budget.split_off() for budget in budgets),
        trace,
        durable,
        cache,
        call,
        channel,
        by_value,
    )
