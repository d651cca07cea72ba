"""One run's state: what is ready, what goes on, what came of it. Pure: no thread, no lock, no clock, no IO.

Whoever drives a run owns its RunState and calls it from one thread at a time (the scheduler holds the run's lock); `now` is an
argument. A task is known by its place: its number in the plan, or after that in the order of spawning.

phases       for each place, where its task stands; `phases` has what each shows to the outside
unmet        for each place, how many dependencies are not settled
ready        a heap of places to start: what was added first is started first. May hold places that are not READY any more
delayed      a heap of (moment, place): attempts that are to be made then
results, errors   for each place, what came of it; in `errors` also why it was skipped or ruled out
faults       the errors of places that failed without their handlers' doing
routes       of each place that returned a Route, the places that it chose
awaited      of places, those of their dependencies that they only wait for, on account of a group without tasks
spawned      for each place, those that its present attempt added
unsettled    how many places are not settled; the run is over at 0
changes      what happened to other places than the one that was asked about, for whoever drives the run to tell and to cancel

==============================  ==============================  ====================================================
what happened                   the task                        others
==============================  ==============================  ====================================================
take                            READY → EXECUTING               nothing
take, with a `when`             READY → DECIDING                nothing
take, one visit too many        READY, DECIDING → FAILED        as after a failure
decide, met                     DECIDING → EXECUTING            nothing
decide, not met                 DECIDING → RULED_OUT            dependents: one unmet less
settle, with a result           EXECUTING → COMPLETE, PARTIAL   dependents: one unmet less
settle, failed                  EXECUTING, DECIDING → FAILED    dependents: one unmet less; with stop_on_failure: stop
settle, Route onward            EXECUTING → COMPLETE            dependents: one unmet less
settle, Route back              EXECUTING → WAITING             the targets, and all after them that is not WAITING
                                                                any more, → WAITING; targets → READY
settle, a Route that cannot be  EXECUTING → FAILED              as after a failure
retry                           EXECUTING → DELAYED             what it spawned → TAKEN_BACK
ripen                           DELAYED → READY                 nothing
spawn                           (new) → WAITING                 nothing
the last unmet is gone          WAITING → READY, SKIPPED,       dependents of what is skipped or ruled out: one unmet
                                RULED_OUT                       less
stop                            nothing                         all that is neither settled nor EXECUTING → SKIPPED
end                             nothing                         EXECUTING → FAILED; all else that is not settled
                                                                → SKIPPED
==============================  ==============================  ====================================================

What becomes of a WAITING task when the last unmet dependency is gone: RULED_OUT if one of them ran and its Route did not
choose it; else SKIPPED if one FAILED or was SKIPPED, unless it allows failure; else RULED_OUT if all of them were; else READY.
One that is only waited for, and whose Route did not choose the task, counts as ruled out: it chose none of the group's tasks.
So it depends on what came of its dependencies, and never on the order in which that came. Each step takes time in proportion
to the edges that it goes along, and a task is walked over once for each time that it is started or undone.
"""

import heapq
from typing import Any, Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from asimov_sync._json import format_error
from asimov_sync.errors import GraphError, IllegalTransition
from asimov_sync.graph.nodes import Node
from asimov_sync.graph.phases import (
    COMPLETE,
    DECIDING,
    DELAYED,
    EXECUTING,
    FAILED,
    PARTIAL,
    READY,
    RULED_OUT,
    SKIPPED,
    TAKEN_BACK,
    WAITING,
    Phase,
)
from asimov_sync.graph.plan import Meant, Plan, unknown
from asimov_sync.tasks import Task, TaskStatus

__all__ = ["Change", "RunState"]

_END = {TaskStatus.COMPLETE: COMPLETE, TaskStatus.PARTIAL: PARTIAL, TaskStatus.FAILED: FAILED}
_NOT_CHOSEN = "{!r} routed past it"


class Change(NamedTuple):
    """A place that was SKIPPED, RULED_OUT or FAILED without a start, or whose attempt, which goes on, was undone (WAITING)."""

    place: int
    phase: Phase


class RunState:
    """What is ready, what goes on and what came of it; see the module for the table.

    stop_on_failure: after the first FAILED task nothing more is started.
    """

    def __init__(self, plan: Plan, stop_on_failure: bool = False) -> None:
        size = len(plan.nodes)
        self.nodes = plan.nodes
        self.dependencies = plan.dependencies
        self.dependents = plan.dependents
        self.stop_on_failure = stop_on_failure
        self.stopped: Optional[str] = None
        self.unmet = [len(before) for before in plan.dependencies]
        self.ready = [place for place, count in enumerate(self.unmet) if not count]  # in order, so it is a heap
        self.phases = [WAITING if count else READY for count in self.unmet]
        self.results: List[Any] = [None] * size
        self.errors: List[Optional[str]] = [None] * size
        self.visits = [0] * size
        self.attempts = [0] * size
        self.delayed: List[Tuple[float, int]] = []
        self.faults: Dict[int, GraphError] = {}
        self.routes: Dict[int, FrozenSet[int]] = {}
        self.feedback: Dict[int, Dict[str, Any]] = {}
        self.spawned: Dict[int, List[int]] = {}
        self.unsettled = size
        self.changes: List[Change] = []
        self.awaited = plan.awaited
        self._groups = plan.groups
        self._moments: Dict[int, float] = {}
        self._places: Optional[Dict[object, Union[int, Meant]]] = None

    @property
    def over(self) -> bool:
        """Whether every task is settled."""
        return not self.unsettled

    @property
    def places(self) -> Dict[object, Union[int, Meant]]:
        """The places by their tasks' names, and by their tasks' ids; and what the groups mean, by the groups' names."""
        if self._places is None:
            places: Dict[object, Union[int, Meant]] = dict(self._groups.items())
            places.update((node.name, place) for place, node in enumerate(self.nodes))
            places.update((node.task.id, place) for place, node in enumerate(self.nodes))
            self._places = places
        return self._places

    # One task's way

    def take(self, now: float) -> Optional[int]:
        """The next task to start: EXECUTING now, or DECIDING if it has a `when`; None if none is ready."""
        if self.delayed:
            self.ripen(now)
        while self.ready:
            place = heapq.heappop(self.ready)
            if self.phases[place] is not READY:
                continue  # it was undone or stopped while it waited here
            if self.nodes[place].when is not None and not self.attempts[place]:
                self.phases[place] = DECIDING
                return place
            if self._start(place):
                return place
        return None

    def _start(self, place: int) -> bool:
        node = self.nodes[place]
        if not self.attempts[place]:
            if self.visits[place] >= node.max_visits:
                self.changes.append(Change(place, FAILED))
                fault = GraphError("{!r} was started {} times already, its max_visits".format(node.name, node.max_visits))
                self.faults[place] = fault
                self._fail(place, format_error(fault))
                return False
            self.visits[place] += 1
        self.attempts[place] += 1
        self.phases[place] = EXECUTING
        _move(node.task, TaskStatus.EXECUTING)
        return True

    def decide(self, place: int, met: bool) -> bool:
        """Start a task that is DECIDING, or rule it out; whether it was started."""
        if met:
            return self._start(place)
        self._drop(place, RULED_OUT, "its condition (when) was not met")
        self._spread(place)
        return False

    def settle(
        self,
        place: int,
        status: TaskStatus,
        result: Any = None,
        error: Optional[str] = None,
        route: Optional[Sequence[str]] = None,
    ) -> TaskStatus:
        """End an attempt for good: as what, which is FAILED where the route that it chose cannot be taken.

        route: the names that a Route held.
        """
        if route is not None:
            try:
                chosen, targets = self._resolve(place, route)
            except GraphError as fault:
                self.faults[place] = fault
                status, result, error = TaskStatus.FAILED, None, format_error(fault)
            else:
                if not targets:
                    self.routes[place] = chosen
                elif self.stopped is None:
                    self._go_back(place, targets, result)
                    return status
        if status is TaskStatus.FAILED:
            self._fail(place, error)
        else:
            _move(self.nodes[place].task, status, result, error)
            self._settle(place, _END[status], result, error)
            self._spread(place)
        return status

    def may_retry(self, place: int) -> bool:
        """Whether an attempt that just failed may be made again, as far as its Retry's number and the run go."""
        retry = self.nodes[place].retry
        return retry is not None and self.attempts[place] < retry.attempts and self.stopped is None

    def retry(self, place: int, moment: float) -> None:
        """End an attempt that is to be made again at this moment."""
        self.phases[place] = DELAYED
        self._moments[place] = moment
        heapq.heappush(self.delayed, (moment, place))
        _move(self.nodes[place].task, TaskStatus.WAITING)
        self._take_back(place)

    def ripen(self, now: float) -> None:
        """Make ready what was delayed until now."""
        while self.delayed and self.delayed[0][0] <= now:
            moment, place = heapq.heappop(self.delayed)
            if self.phases[place] is DELAYED and self._moments[place] == moment:
                self._make_ready(place)

    def _make_ready(self, place: int) -> None:
        self.phases[place] = READY
        heapq.heappush(self.ready, place)

    def _fail(self, place: int, error: Optional[str]) -> None:
        _move(self.nodes[place].task, TaskStatus.FAILED, None, error)
        self._settle(place, FAILED, None, error)
        if self.stop_on_failure:
            self.stop("the run stopped after {!r} failed".format(self.nodes[place].name))
        else:
            self._spread(place)

    def _settle(self, place: int, phase: Phase, result: Any, text: Optional[str]) -> None:
        self.results[place] = result
        self.errors[place] = text
        self.phases[place] = phase
        self.unsettled -= 1

    # What that means for others

    def _spread(self, place: int) -> None:
        """Tell the dependents of a place that it is settled; and theirs, where that settles them, too."""
        settled = [place]
        for place in settled:  # grows while it is walked
            for dependent in self.dependents[place]:
                unmet = self.unmet[dependent] = self.unmet[dependent] - 1
                if not unmet and self.phases[dependent] is WAITING and self._decide_fate(dependent):
                    settled.append(dependent)

    def _decide_fate(self, place: int) -> bool:
        """Make a task ready whose dependencies are all settled, or settle it; whether it is settled."""
        fruitful, fruitless, past = False, None, None
        for dependency in self.dependencies[place]:
            phase = self.phases[dependency]
            if phase is COMPLETE or phase is PARTIAL:
                if dependency not in self.routes or place in self.routes[dependency]:
                    fruitful = True
                elif dependency not in self.awaited.get(place, ()):
                    past = dependency
            elif fruitless is None and (phase is FAILED or phase is SKIPPED):
                fruitless = dependency
        if past is not None:
            self._drop(place, RULED_OUT, _NOT_CHOSEN.format(self.nodes[past].name))
        elif fruitless is not None and not self.nodes[place].allow_failure:
            happened = "failed" if self.phases[fruitless] is FAILED else "was skipped"
            self._drop(place, SKIPPED, "its dependency {!r} {}".format(self.nodes[fruitless].name, happened))
        elif fruitful or fruitless is not None or not self.dependencies[place]:
            self._make_ready(place)
            return False
        else:
            self._drop(place, RULED_OUT, "all that it depends on was ruled out")
        return True

    def _drop(self, place: int, phase: Phase, reason: str) -> None:
        self._settle(place, phase, None, reason)
        self.changes.append(Change(place, phase))

    # Routes

    def _resolve(self, place: int, names: Sequence[str]) -> Tuple[FrozenSet[int], List[int]]:
        """The dependents that a Route chose, or the places that it goes back to; GraphError for what it cannot do."""
        node, dependents = self.nodes[place], set(self.dependents[place])
        meant = [node.named(name, self.places) if isinstance(name, str) else None for name in names]
        before = self._before(place, [one for one in meant if isinstance(one, int) and one not in dependents])
        chosen: Set[int] = set()
        targets: List[int] = []
        for name, target in zip(names, meant):
            if target is None:
                raise GraphError("the Route of {!r} names {!r}, which is not in the run".format(node.name, name))
            if not isinstance(target, int):
                raise GraphError("the Route of {!r} names {!r}, a group: a Route names tasks".format(node.name, name))
            if target in dependents:
                chosen.add(target)
            elif target in before:
                targets.append(target)
            else:
                raise GraphError(
                    "the Route of {!r} names {!r}, which neither depends on it nor comes before it".format(node.name, name)
                )
        if chosen and targets:
            raise GraphError("the Route of {!r} cannot go on and back at once: {}".format(node.name, ", ".join(names)))
        for target in targets + [place] if targets else []:
            if self.visits[target] >= self.nodes[target].max_visits:
                raise GraphError(
                    "{!r} was started {} times, its max_visits: {!r} cannot go back once more".format(
                        self.nodes[target].name, self.visits[target], node.name
                    )
                )
        return frozenset(chosen), targets

    def _after(self, targets: Iterable[int]) -> Dict[int, None]:
        """The targets, and all after them that is not WAITING any more, in that order."""
        found: Dict[int, None] = dict.fromkeys(targets)
        walk = list(found)
        for place in walk:  # grows while it is walked
            if self.phases[place].settled:  # else it is what its dependents wait for
                for dependent in self.dependents[place]:
                    if dependent not in found and self.phases[dependent] not in (WAITING, TAKEN_BACK):
                        found[dependent] = None
                        walk.append(dependent)
        return found

    def _before(self, place: int, targets: List[int]) -> Set[int]:
        """A place, and what lies before it of all that is `_after` the targets; so those of them that it is after."""
        after, found = self._after(targets), {place}
        walk = [place] if targets else []
        for one in walk:  # grows while it is walked
            for dependency in self.dependencies[one]:
                phase = self.phases[dependency]
                if dependency in after and dependency not in found and phase.settled and phase is not TAKEN_BACK:
                    found.add(dependency)
                    walk.append(dependency)
        return found

    def _go_back(self, router: int, targets: List[int], result: Any) -> None:
        """Undo the targets, and all after them that is not WAITING any more; they wait again, and the targets are ready."""
        undone = self._after(targets)
        for place in undone:
            if self.phases[place].settled:
                self.unsettled += 1
                for dependent in self.dependents[place]:
                    self.unmet[dependent] += 1
        for place in undone:
            if self.phases[place] in (EXECUTING, DECIDING) and place != router:
                self.changes.append(Change(place, WAITING))
            self.phases[place] = WAITING
            self.results[place] = self.errors[place] = None
            self.attempts[place] = 0
            self.routes.pop(place, None)
            self.feedback.pop(place, None)
            _move(self.nodes[place].task, TaskStatus.WAITING)
        for place in undone:
            self._take_back(place)
        for target in targets:
            self.feedback[target] = {self.nodes[target].local(self.nodes[router].name): result}
            if not self.unmet[target] and self.phases[target] is WAITING and self._decide_fate(target):
                self._spread(target)  # what could not be started before, and cannot now

    # Tasks that the run grows by

    def spawn(self, by: int, node: Node) -> int:
        """Add a task on behalf of an attempt that goes on; GraphError for a name that is taken or a dependency unknown."""
        if node.name in self.places:
            raise GraphError("there is a task or a group named {!r} already".format(node.name))
        if node.task.id in self.places:
            raise GraphError("the task of {!r} is in the run already; spawn a copy: Task(type=…, …)".format(node.name))
        real: List[int] = []
        waited: List[int] = []
        for dependency in node.depends_on:
            if isinstance(dependency, Task):
                found = self.places.get(dependency.id)
            else:
                found = node.named(dependency, self.places)
            if found is None:
                raise unknown(node.name, dependency, "run")
            if isinstance(found, int):
                real.append(found)
            else:
                (waited if found.empty else real).extend(found.places)
        dependencies = list(dict.fromkeys(real + waited))
        place = len(self.nodes)
        self.nodes.append(node)
        self.dependencies.append(tuple(dependencies))
        self.dependents.append([])
        self.phases.append(WAITING)
        self.unmet.append(sum(not self.phases[one].settled for one in dependencies))
        self.results.append(None)
        self.errors.append(None)
        self.visits.append(0)
        self.attempts.append(0)
        self.unsettled += 1
        if waited:
            self.awaited[place] = frozenset(waited).difference(real)
        for before in dependencies:
            self.dependents[before].append(place)
        self.places[node.name] = self.places[node.task.id] = place
        self.spawned.setdefault(by, []).append(place)
        if self.stopped is not None:
            self._drop(place, SKIPPED, self.stopped)
        elif not self.unmet[place]:
            self._decide_fate(place)
        return place

    def _take_back(self, place: int) -> None:
        """Take back what an attempt spawned that was undone, and what that spawned."""
        walk = self.spawned.pop(place, [])
        unsettled: List[int] = []
        for child in walk:  # grows while it is walked
            walk += self.spawned.pop(child, [])
            del self.places[self.nodes[child].name], self.places[self.nodes[child].task.id]
            phase = self.phases[child]
            if phase in (EXECUTING, DECIDING):
                self.changes.append(Change(child, WAITING))
            _move(self.nodes[child].task, TaskStatus.WAITING)
            if not phase.settled:
                unsettled.append(child)
                self.unsettled -= 1
            self.phases[child] = TAKEN_BACK
            self.results[child] = None
        for child in unsettled:  # when all of them are gone, so that none is decided about
            self._spread(child)

    # The end

    def stop(self, reason: str) -> None:
        """Start nothing more. What goes on may still be settled."""
        self.stopped = reason
        self.ready = []
        self.delayed = []
        for place, phase in enumerate(self.phases):
            if not phase.settled and phase is not EXECUTING:
                self._drop(place, SKIPPED, reason)

    def end(self, reason: str, error: str) -> List[int]:
        """End the run now: the places that are failed with `error`. All else that is not settled is skipped for `reason`.

        Counts nothing that was counted before: it is what ends a run also where an exception, Ctrl-C say, has interrupted
        another step half-way.
        """
        failed = []
        for place, phase in enumerate(self.phases):
            task = self.nodes[place].task
            if phase is EXECUTING or (task.status is TaskStatus.EXECUTING and phase is not TAKEN_BACK):
                failed.append(place)
                _move(task, TaskStatus.FAILED, None, error)
                self._settle(place, FAILED, None, error)
        self.stop(reason)
        self.unsettled = 0
        return failed

    # What came of it

    @property
    def status(self) -> TaskStatus:
        """The run's own status: what its tasks' statuses make of it."""
        if not self.over:
            return TaskStatus.EXECUTING
        statuses = {phase.status for phase in set(self.phases) - {RULED_OUT, TAKEN_BACK}}
        if statuses <= {TaskStatus.COMPLETE}:
            return TaskStatus.COMPLETE
        if statuses & {TaskStatus.COMPLETE, TaskStatus.PARTIAL}:
            return TaskStatus.PARTIAL
        return TaskStatus.FAILED

    def inputs(self, place: int) -> Dict[str, Any]:
        """The results of a task's dependencies that brought one, by the names that it knows them by."""
        names = self._local_names(place) if self.nodes[place].scopes else None
        awaited = self.awaited.get(place, ())
        found = {}
        for dependency in self.dependencies[place]:
            if (self.phases[dependency] is COMPLETE or self.phases[dependency] is PARTIAL) and dependency not in awaited:
                name = self.nodes[dependency].name
                found[names[name] if names else name] = self.results[dependency]
        return found

    def failed_dependencies(self, place: int) -> Dict[str, str]:
        """Which of a task's dependencies failed or were skipped, and why; those that it only waits for, too."""
        names = self._local_names(place)
        return {
            names[self.nodes[dependency].name]: self.errors[dependency] or ""
            for dependency in self.dependencies[place]
            if self.phases[dependency] is FAILED or self.phases[dependency] is SKIPPED
        }

    def _local_names(self, place: int) -> Dict[str, str]:
        return self.nodes[place].local_names(self.nodes[dependency].name for dependency in self.dependencies[place])


def _move(task: Task, status: TaskStatus, result: Any = None, error: Optional[str] = None) -> None:
    """Move a task, from wherever it is: a handler may have moved it, although that is the run's to do."""
    try:
        task.move(status, result, error)
    except IllegalTransition:
        if task.status.is_final:
            task.move(TaskStatus.WAITING)
        elif task.status is TaskStatus.EXECUTING and status is TaskStatus.EXECUTING:
            return
        if status is not TaskStatus.WAITING:
            if status is not TaskStatus.EXECUTING:
                task.move(TaskStatus.EXECUTING)
            task.move(status, result, error)
