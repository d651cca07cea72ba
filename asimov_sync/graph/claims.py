"""Which tasks are in a run: a run works on the graph's own Task objects, so each may be in one run at a time."""

import queue
import weakref
from typing import Dict, Optional, Sequence

from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.errors import GraphError
from asimov_sync.graph.nodes import Node
from asimov_sync.tasks import TaskStatus

__all__ = ["Hold", "claim", "release"]


ENDING_SECONDS = 5.0
"""How long a run waits for tasks of another one that nobody reads any more; ending that one takes a millisecond or two."""


class Hold:
    """What a run holds while it works on its tasks. A run that is lost, by Ctrl-C at the wrong moment, claims nothing.

    dropped: whether its run is about to be ended, by another thread.
    """

    __slots__ = ("__weakref__", "_over", "dropped")

    def __init__(self) -> None:
        self.dropped = False
        # A queue, because Ctrl-C in the methods of an Event may leave its lock taken.
        self._over: "queue.SimpleQueue[None]" = queue.SimpleQueue()

    def end(self) -> None:
        """The tasks were given back."""
        self._over.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait until they were; whether they were in so many seconds."""
        try:
            self._over.get(timeout=seconds)
        except queue.Empty:
            return False
        self._over.put(None)
        return True


class _Claims(ForkSafeLock):
    """The tasks that runs of this process are working on: identity, and the claim. None in a forked child."""

    __slots__ = ("tasks",)

    def reset(self) -> None:
        super().reset()
        self.tasks: Dict[int, "weakref.ref[Hold]"] = {}


_claims = _Claims()


def claim(nodes: Sequence[Node], mine: Hold, patient: bool = True) -> None:
    """Take the tasks for a run, and let every one wait, whatever an earlier run left; GraphError while another run has one.

    patient: whether to wait for a run that was dropped, which ends in this moment.
    """
    wanted = dict.fromkeys([id(node.task) for node in nodes], weakref.ref(mine))
    while True:
        with _claims.lock:
            held = None if wanted.keys().isdisjoint(_claims.tasks.keys()) else _held(nodes, mine)
            if held is None:
                _claims.tasks.update(wanted)
                break
        if not (patient and held.dropped and held.wait(ENDING_SECONDS)):
            raise GraphError(
                "the task {!r} is running already, and a run works on the graph's own tasks: "
                "run graph.copy() to run a graph several times at once".format(_name(nodes, held))
            )
    for node in nodes:
        if node.task.status is not TaskStatus.WAITING:
            if not node.task.status.is_final:  # left EXECUTING by a process that is gone, and loaded from its JSON
                node.task.move(TaskStatus.FAILED)
            node.task.move(TaskStatus.WAITING)


def _holder(node: Node) -> Optional[Hold]:
    reference = _claims.tasks.get(id(node.task))
    return None if reference is None else reference()


def _held(nodes: Sequence[Node], mine: Hold) -> Optional[Hold]:
    """What another run holds some of the tasks by, the first that is found."""
    return next((held for held in map(_holder, nodes) if held not in (None, mine)), None)


def _name(nodes: Sequence[Node], held: Hold) -> str:
    """Of the first task that is held so; it may just have been given back."""
    return next((node.name for node in nodes if _holder(node) is held), nodes[0].name)


def release(nodes: Sequence[Node], mine: Hold) -> None:
    """Give back those of the tasks that are claimed so."""
    reference = weakref.ref(mine)  # the same object for as long as there is one
    with _claims.lock:
        tasks = _claims.tasks
        for node in nodes:
            if tasks.get(id(node.task)) is reference:
                del tasks[id(node.task)]
