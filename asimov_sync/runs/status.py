"""RunStatus: the states of a durable run."""

import enum

__all__ = ["ENDED", "RunStatus"]


class RunStatus(str, enum.Enum):
    """The status of a stored run. A status is a string, such as "parked".

    RUNNING: a driver holds its lease.
    PARKED: it waits for answers, without a driver.
    INTERRUPTED: its driver was interrupted, and gave up the lease; or it was enqueued, and has had
        no driver yet. The next `run` continues it.
    ORPHANED: its driver died: the lease has ended. The next `run` continues it.
    COMPLETE, PARTIAL, FAILED: it has ended by itself.
    CANCELLED: it was cancelled, or its time-out passed.
    """

    RUNNING = "running"
    PARKED = "parked"
    INTERRUPTED = "interrupted"
    ORPHANED = "orphaned"
    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


ENDED = frozenset([RunStatus.COMPLETE, RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED])
"""The statuses of a run that has ended for good."""
