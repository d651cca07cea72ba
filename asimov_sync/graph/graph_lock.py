"""Keeps a graph from being run twice at once: every Task is locked by at most one run.

A run changes the graph's own Task objects, so two runs may not share one. Runs are referenced
weakly: a run that Ctrl-C destroyed before it could end leaves its tasks unlocked.
"""

import weakref
from typing import Dict, Optional, Sequence

from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.errors import GraphError
from asimov_sync.graph.node import Node
from asimov_sync.tasks import TaskStatus

__all__ = ["RunLock", "acquire", "release"]


CLOSE_TIMEOUT = 5.0
"""Seconds to wait for a run that is closing already. Closing takes a few milliseconds."""

RELEASED_AT_ONCE = 1000
"""The number of tasks that `release` unlocks before it lets other runs lock or unlock theirs."""


class RunLock:
    """One run's hold on its tasks.

    closing: whether another thread is about to end the run, so that waiting for it is worthwhile.
    released: set when the tasks are free.
    """

    __slots__ = ("__weakref__", "closing", "released")

    def __init__(self) -> None:
        self.closing = False
        self.released = InterruptibleEvent()


class _Registry(ForkSafeLock):
    """The tasks that runs of this process have locked, by their id(). Empty in a forked child."""

    __slots__ = ("owners",)

    def reset(self) -> None:
        super().reset()
        self.owners: Dict[int, "weakref.ref[RunLock]"] = {}


_registry = _Registry()


def acquire(nodes: Sequence[Node], lock: RunLock, wait_if_closing: bool = True) -> None:
    """Lock tasks for a run, and move each of them to WAITING.

    nodes: the nodes of the run.
    lock: the lock of the run.
    wait_if_closing: wait for another run that is about to end, up to CLOSE_TIMEOUT seconds.

    Raises GraphError if another run has locked one of the tasks.
    """
    wanted = dict.fromkeys([id(node.task) for node in nodes], weakref.ref(lock))
    while True:
        with _registry.lock:
            free = wanted.keys().isdisjoint(_registry.owners.keys())
            other = None if free else _other_owner(nodes, lock)
            if other is None:
                _registry.owners.update(wanted)
                break
        if not (wait_if_closing and other.closing and other.released.wait(CLOSE_TIMEOUT)):
            raise GraphError(
                f"the task {_name_of_locked(nodes, other)!r} is in another run, and a run changes "
                "the graph's own tasks: run graph.copy() to run a graph several times at once"
            )
    for node in nodes:
        if node.task.status is not TaskStatus.WAITING:
            # A task that was loaded from JSON may be EXECUTING: its process died.
            if not node.task.status.is_final:
                node.task.move(TaskStatus.FAILED)
            node.task.move(TaskStatus.WAITING)


def _owner(node: Node) -> Optional[RunLock]:
    reference = _registry.owners.get(id(node.task))
    return None if reference is None else reference()


def _other_owner(nodes: Sequence[Node], lock: RunLock) -> Optional[RunLock]:
    """Return the first other lock that holds one of the tasks."""
    return next((owner for owner in map(_owner, nodes) if owner not in (None, lock)), None)


def _name_of_locked(nodes: Sequence[Node], lock: RunLock) -> str:
    """Return the name of a task that the lock holds; any name if it was released meanwhile."""
    return next((node.name for node in nodes if _owner(node) is lock), nodes[0].name)


def release(nodes: Sequence[Node], lock: RunLock) -> None:
    """Unlock those of the tasks that this lock holds."""
    reference = weakref.ref(lock)  # weakref.ref returns the same object while one exists
    for start in range(0, len(nodes), RELEASED_AT_ONCE):
        with _registry.lock:
            owners = _registry.owners
            for node in nodes[start : start + RELEASED_AT_ONCE]:
                if owners.get(id(node.task)) is reference:
                    del owners[id(node.task)]
