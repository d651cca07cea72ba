"""The phases of a task in a run, finer than its status: what a run has to know to go on."""

from typing import Tuple

from asimov_sync.tasks import TaskStatus

__all__ = [
    "COMPLETE",
    "DECIDING",
    "DELAYED",
    "EXECUTING",
    "FAILED",
    "PARTIAL",
    "READY",
    "RULED_OUT",
    "SKIPPED",
    "TAKEN_BACK",
    "WAITING",
    "Phase",
]


class Phase:
    """A phase: the status that its task shows in it, and whether what depends on the task need not wait for it any longer."""

    __slots__ = ("name", "settled", "status")

    def __init__(self, name: str, status: TaskStatus, settled: bool) -> None:
        self.name = name
        self.status = status
        self.settled = settled

    def __reduce__(self) -> str:
        """Pickle and copy a phase by its name in this module: code compares phases by identity."""
        return self.name

    def __repr__(self) -> str:
        return self.name


WAITING = Phase("WAITING", TaskStatus.WAITING, False)
"""For a dependency."""
READY = Phase("READY", TaskStatus.WAITING, False)
"""For somebody to take it."""
DECIDING = Phase("DECIDING", TaskStatus.WAITING, False)
"""Its `when` is being asked."""
EXECUTING = Phase("EXECUTING", TaskStatus.EXECUTING, False)
"""Its handler is being called."""
DELAYED = Phase("DELAYED", TaskStatus.WAITING, False)
"""For the moment of its next attempt."""
COMPLETE = Phase("COMPLETE", TaskStatus.COMPLETE, True)
PARTIAL = Phase("PARTIAL", TaskStatus.PARTIAL, True)
FAILED = Phase("FAILED", TaskStatus.FAILED, True)
SKIPPED = Phase("SKIPPED", TaskStatus.WAITING, True)
"""Not started, because of a failure or the early end of the run."""
RULED_OUT = Phase("RULED_OUT", TaskStatus.WAITING, True)
"""Not started, because of a Route or a `when`: it does not count."""
TAKEN_BACK = Phase("TAKEN_BACK", TaskStatus.WAITING, True)
"""Spawned by an attempt that was undone: it is no part of the run any more."""

ENDS: Tuple[Phase, ...] = (COMPLETE, PARTIAL, FAILED)
