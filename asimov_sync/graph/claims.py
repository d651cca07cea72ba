"""Which tasks are in a run: a run works on the graph's own Task objects, so each may be in one run at a time."""

import weakref
from typing import Dict, Sequence

from asimov_sync.errors import GraphError
from asimov_sync.forking import ForkSafeLock
from asimov_sync.graph.nodes import Node
from asimov_sync.tasks import TaskStatus

__all__ = ["Hold", "claim", "release"]


class Hold:
    """What a run holds while it works on its tasks. A run that is lost, by Ctrl-C at the wrong moment, claims nothing."""

    __slots__ = ("__weakref__",)


class _Claims(ForkSafeLock):
    """The tasks that runs of this process are working on: identity, and the claim. None in a forked child."""

    __slots__ = ("tasks",)

    def renew(self) -> None:
        super().renew()
        self.tasks: Dict[int, "weakref.ref[Hold]"] = {}


_claims = _Claims()


def claim(nodes: Sequence[Node], mine: Hold) -> None:
    """Take the tasks for a run, and let every one wait, whatever an earlier run left; GraphError while another run has one."""
    wanted = dict.fromkeys([id(node.task) for node in nodes], weakref.ref(mine))
    with _claims.lock:
        if not wanted.keys().isdisjoint(_claims.tasks.keys()):
            _refuse_held(nodes, mine)
        _claims.tasks.update(wanted)
    for node in nodes:
        if node.task.status is not TaskStatus.WAITING:
            if not node.task.status.settled:  # left EXECUTING by a process that is gone, and loaded from its JSON
                node.task.move(TaskStatus.FAILED)
            node.task.move(TaskStatus.WAITING)


def _refuse_held(nodes: Sequence[Node], mine: Hold) -> None:
    for node in nodes:
        held = _claims.tasks.get(id(node.task))
        if held is not None and held() not in (None, mine):
            raise GraphError(
                "the task {!r} is running already, and a run works on the graph's own tasks: "
                "run graph.copy() to run a graph several times at once".format(node.name)
            )


def release(nodes: Sequence[Node], mine: Hold) -> None:
    """Give back those of the tasks that are claimed so."""
    reference = weakref.ref(mine)  # the same object for as long as there is one
    with _claims.lock:
        tasks = _claims.tasks
        for node in nodes:
            if tasks.get(id(node.task)) is reference:
                del tasks[id(node.task)]
