"""RunSnapshot: the state of a run at one moment, for a display."""

from typing import List, NamedTuple, Optional

from asimov_sync.messages import Usage

__all__ = ["RunSnapshot", "ActiveTask"]


class ActiveTask(NamedTuple):
    """A task that is running, or waits for its next attempt.

    name: the name of the task.
    text: what it is doing; empty if that is unknown.
    until: the `clock.monotonic()` moment at which that ends; None if that is unknown.
    """

    name: str
    text: str
    until: Optional[float]


class RunSnapshot(NamedTuple):
    """The state of a run at one moment.

    name: the name of the graph, or None.
    run_id: the id of the run.
    over: whether it has ended, or is parked.
    durable: whether the run is kept in a store.
    seconds: the seconds since the run began, in all drives together.
    total: how many tasks the run has by now.
    finished: how many of them have ended, those that will not run included.
    complete, partial, failed, skipped: how many of these ended in this way.
    cancelled: how many of the failed ones were running when the run ended early.
    parked: how many wait for an answer.
    active: the tasks that are running, in the order in which they started, and after them those
        that wait for their next attempt.
    usage: the tokens that the run has used.
    dollars: their cost in US dollars; 0 where it is unknown.
    """

    name: Optional[str]
    run_id: str
    over: bool
    durable: bool
    seconds: float
    total: int
    finished: int
    complete: int
    partial: int
    failed: int
    skipped: int
    cancelled: int
    parked: int
    active: List[ActiveTask]
    usage: Usage
    dollars: float
