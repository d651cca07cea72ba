"""One run's state: what is ready, what goes on, what came of it. Pure: no thread, no lock, no clock, no IO.

Whoever drives a run owns its RunState and calls it from one thread at a time (the scheduler holds the run's lock). A node is
known by its place in the plan.

unmet       for each place, how many dependencies are not settled yet
ready       a heap of places to start: what was added first is started first
executing   the places that were taken and are not settled
skipped     the places that will not be started, with the reason; their tasks stay WAITING
unsettled   how many places are neither settled nor skipped; the run is over at 0

=====================  ==============================  ========================================================
what happened          the task                        its dependents
=====================  ==============================  ========================================================
take                   WAITING → EXECUTING             nothing
settle, with a result  EXECUTING → COMPLETE, PARTIAL   one unmet dependency less; ready at 0
settle, failed         EXECUTING → FAILED              skipped, and theirs; those that allow failure: one less
skip                   stays WAITING                   the same as after a failure
end                    EXECUTING → FAILED              all that is not settled is skipped
=====================  ==============================  ========================================================
"""

import heapq
from typing import Dict, List, Optional, Sequence, Set, Tuple

from asimov_sync.graph.building import Node
from asimov_sync.tasks import TaskStatus

__all__ = ["RunState"]


class RunState:
    """What is ready, what goes on and what came of it; see the module for the table.

    stop_on_failure: after the first FAILED task nothing more is started.
    """

    def __init__(self, nodes: Sequence[Node], stop_on_failure: bool = False) -> None:
        self.nodes = nodes
        self.stop_on_failure = stop_on_failure
        self.dependents: List[List[int]] = [[] for _ in nodes]
        self.unmet = [len(node.dependencies) for node in nodes]
        for place, node in enumerate(nodes):
            for dependency in node.dependencies:
                self.dependents[dependency].append(place)
        self.ready = [place for place, count in enumerate(self.unmet) if not count]  # in order, so it is a heap
        self.executing: Set[int] = set()
        self.skipped: Dict[int, str] = {}
        self.unsettled = len(nodes)

    @property
    def over(self) -> bool:
        """Whether every task is settled or skipped."""
        return not self.unsettled

    def take(self) -> Optional[int]:
        """The next task to start, EXECUTING now; None if none is ready."""
        if not self.ready:
            return None
        place = heapq.heappop(self.ready)
        self.executing.add(place)
        self.nodes[place].task.move(TaskStatus.EXECUTING)
        return place

    def settle(self, place: int, status: TaskStatus, result: object = None, error: Optional[str] = None) -> List[int]:
        """End a task that was taken; the places that are skipped because of it."""
        self.executing.remove(place)
        self.unsettled -= 1
        self._move(place, status, result, error)
        if status is not TaskStatus.FAILED:
            for dependent in self.dependents[place]:
                self._meet(dependent)
            return []
        if self.stop_on_failure:
            return self.stop("the run stopped after {!r} failed".format(self.nodes[place].name))
        return self._propagate(place)

    def _move(self, place: int, status: TaskStatus, result: object, error: Optional[str]) -> None:
        """Move a task to its end, from wherever it is: a handler may have moved it, although that is the run's to do."""
        task = self.nodes[place].task
        if task.status is not TaskStatus.EXECUTING:
            if task.status.settled:
                task.move(TaskStatus.WAITING)
            task.move(TaskStatus.EXECUTING)
        task.move(status, result, error)

    def _meet(self, place: int) -> None:
        self.unmet[place] -= 1
        if not self.unmet[place] and place not in self.skipped:
            heapq.heappush(self.ready, place)

    def _propagate(self, place: int) -> List[int]:
        """Skip what depends on a task that brought no result, and what depends on that."""
        skipped: List[int] = []
        fruitless = [(place, "failed")]
        for place, happened in fruitless:  # grows while it is walked
            for dependent in self.dependents[place]:
                if self.nodes[dependent].allow_failure:
                    self._meet(dependent)
                elif dependent not in self.skipped:
                    self._skip(dependent, "its dependency {!r} {}".format(self.nodes[place].name, happened))
                    skipped.append(dependent)
                    fruitless.append((dependent, "was skipped"))
        return skipped

    def _skip(self, place: int, reason: str) -> None:
        self.skipped[place] = reason
        self.unsettled -= 1

    def stop(self, reason: str) -> List[int]:
        """Start nothing more; the places that are skipped because of it. What goes on may still be settled."""
        self.ready = []
        skipped = [
            place
            for place, node in enumerate(self.nodes)
            if place not in self.skipped and place not in self.executing and node.task.status is TaskStatus.WAITING
        ]
        for place in skipped:
            self._skip(place, reason)
        return skipped

    def end(self, reason: str, error: str) -> Tuple[List[int], List[int]]:
        """End the run now: the places that are failed with `error`, and those that are skipped for `reason`.

        Counts nothing that was counted before: it is what ends a run also where an exception, Ctrl-C say, has interrupted
        another step half-way.
        """
        self.executing = {
            place
            for place, node in enumerate(self.nodes)
            if place in self.executing or node.task.status is TaskStatus.EXECUTING
        }
        skipped = self.stop(reason)
        failed = sorted(self.executing)
        for place in failed:
            self._move(place, TaskStatus.FAILED, None, error)
            self.executing.remove(place)
        self.unsettled = 0
        return failed, skipped

    @property
    def status(self) -> TaskStatus:
        """The run's own status: what its tasks' statuses make of it."""
        if not self.over:
            return TaskStatus.EXECUTING
        statuses = {node.task.status for node in self.nodes}
        if statuses <= {TaskStatus.COMPLETE}:
            return TaskStatus.COMPLETE
        if statuses & {TaskStatus.COMPLETE, TaskStatus.PARTIAL}:
            return TaskStatus.PARTIAL
        return TaskStatus.FAILED

    def failed_dependencies(self, place: int) -> Dict[str, str]:
        """Which of a task's dependencies brought no result, and why."""
        told = {}
        for dependency in self.nodes[place].dependencies:
            status, _, error = self.nodes[dependency].task.snapshot()
            if status is TaskStatus.FAILED:
                told[self.nodes[dependency].name] = error or ""
            elif dependency in self.skipped:
                told[self.nodes[dependency].name] = self.skipped[dependency]
        return told
