"""The state of one run: which tasks are ready, running, or finished, and with what result.

Pure: no thread, no lock, no clock, no IO. The engine owns a RunState and calls it from one thread
at a time, under the run's lock; the current time is an argument. A task is known by its index: its
number in the plan or, if it was spawned, in the order of spawning after that.

phases       the phase of each task; a phase determines the public status
pending      for each task, the number of its dependencies that are not final
ready        a heap of tasks to start, in the order of adding; may hold tasks no longer READY
unreleased   in a durable run, the tasks that are READY because of something that may not be written
             yet, and for each the batch after which it may start; they are not in `ready`
batch        in a durable run, the number of the batch that contains what happens now
delayed      a heap of (moment, index): attempts to be repeated then
results, errors   for each task; `errors` also holds why it was skipped or not selected
engine_errors     the errors of tasks that failed without their handlers raising
routes       for each task that returned a Route, the tasks that it selected
held         for each PARTIAL task that waits for something, and for each task downstream, why its
             dependents are skipped
order_only   for some tasks, the dependencies that they only wait for (empty groups)
spawned      for each task, the tasks that its present attempt added
inserted     for each task spawned before the dependents of its spawner, those dependents
unfinished   the number of tasks that are not final; the run is finished at 0
changes      side effects on other tasks; the engine publishes them and cancels running attempts
cut_off      tasks that were skipped because the run stopped; the engine publishes that
undone       tasks whose earlier events do not count any more; the engine publishes that
revoked      tasks that are not part of the run any more since the engine last looked
parked       the tasks that wait for an answer
resuming     tasks that were parked, and continue the attempt in which they parked

==============================  ==============================  ===================================
what happens                    the task                        other tasks
==============================  ==============================  ===================================
start_next                      READY → EXECUTING               none
start_next, with a `when`       READY → EVALUATING              none
start_next, too many visits     READY, EVALUATING → FAILED      as after a failure
apply_condition, true           EVALUATING → EXECUTING          none
apply_condition, false          EVALUATING → NOT_SELECTED       dependents: pending - 1
finish, with a result           EXECUTING → COMPLETE, PARTIAL   dependents: pending - 1
finish, failed                  EXECUTING, EVALUATING → FAILED  dependents: pending - 1; with
                                                                stop_on_failure: stop
finish, Route forwards          EXECUTING → COMPLETE            dependents: pending - 1
finish, Route backwards         EXECUTING → WAITING             targets, and all tasks downstream
                                                                that are not WAITING, → WAITING;
                                                                targets → READY
finish, invalid Route           EXECUTING → FAILED              as after a failure
retry                           EXECUTING → DELAYED             what it spawned → REVOKED
park                            EXECUTING → PARKED              what it spawned → REVOKED
unpark                          PARKED → READY                  none
restore                         (new) → any                     as after the steps that led there
release_due                     DELAYED → READY                 none
spawn                           (new) → WAITING                 before_dependents: the spawner's
                                                                dependents: pending + 1
pending reaches 0               WAITING → READY, SKIPPED,       if it is final: dependents:
                                NOT_SELECTED                    pending - 1
stop                            none                            all that are neither final nor
                                                                EXECUTING → SKIPPED
end                             none                            EXECUTING → FAILED; all others that
                                                                are not final → SKIPPED
stop and end, keep_always       none                            as above, but for tasks with
                                                                `always`; these are readied when
                                                                their dependencies are final
==============================  ==============================  ===================================

When `pending` of a WAITING task reaches 0, the first rule that applies decides:

1. The task has `always`: READY.
2. A dependency ran and its Route did not select the task: NOT_SELECTED.
3. A dependency is held (it waits for something, or is downstream of one that does): SKIPPED.
4. A dependency is FAILED or SKIPPED and the task does not allow failure: SKIPPED.
5. All dependencies are NOT_SELECTED: NOT_SELECTED. An order-only dependency whose Route did not
   select the task counts as NOT_SELECTED: it selected none of the (empty) group's tasks.
6. Otherwise: READY.

So the result depends on how the dependencies ended, and never on the order in which they did. A
step takes time in proportion to the edges that it follows, and a task's edges are followed once
for each time that it starts or is reset.
"""

import heapq
from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from asimov_sync._json import format_error
from asimov_sync.errors import GraphError, IllegalTransition
from asimov_sync.graph.journal import TaskRecord
from asimov_sync.graph.node import Node
from asimov_sync.graph.plan import GroupRefs, Plan, unknown_dependency
from asimov_sync.tasks import Task, TaskStatus

__all__ = ["Change", "Phase", "RunState"]


class Phase:
    """The state of a task in a run; finer than its status.

    status: the status that the task shows in this phase.
    is_final: whether dependents need not wait for the task any longer.
    """

    __slots__ = ("is_final", "name", "status")

    def __init__(self, name: str, status: TaskStatus, is_final: bool) -> None:
        self.name = name
        self.status = status
        self.is_final = is_final

    def __reduce__(self) -> str:
        """Pickle and copy a phase by its name in this module: phases are compared by identity."""
        return self.name

    def __repr__(self) -> str:
        return self.name


WAITING = Phase("WAITING", TaskStatus.WAITING, False)
"""Some dependencies are not final."""
READY = Phase("READY", TaskStatus.WAITING, False)
"""A worker may start it."""
EVALUATING = Phase("EVALUATING", TaskStatus.WAITING, False)
"""The `when` of the task is being called."""
EXECUTING = Phase("EXECUTING", TaskStatus.EXECUTING, False)
"""The handler is being called."""
PARKED = Phase("PARKED", TaskStatus.WAITING, False)
"""The task waits for an answer."""
DELAYED = Phase("DELAYED", TaskStatus.WAITING, False)
"""The task waits for the moment of its next attempt."""
COMPLETE = Phase("COMPLETE", TaskStatus.COMPLETE, True)
PARTIAL = Phase("PARTIAL", TaskStatus.PARTIAL, True)
FAILED = Phase("FAILED", TaskStatus.FAILED, True)
SKIPPED = Phase("SKIPPED", TaskStatus.WAITING, True)
"""The task does not run, because of a failure or the early end of the run."""
NOT_SELECTED = Phase("NOT_SELECTED", TaskStatus.WAITING, True)
"""The task does not run, because of a Route or `when`, and does not count for the run's status."""
REVOKED = Phase("REVOKED", TaskStatus.WAITING, True)
"""The attempt that spawned the task was undone. The task is not part of the run any more."""

_FINAL_PHASES = {
    TaskStatus.COMPLETE: COMPLETE,
    TaskStatus.PARTIAL: PARTIAL,
    TaskStatus.FAILED: FAILED,
}


PHASES = {
    phase.name: phase
    for phase in (WAITING, READY, PARKED, DELAYED, COMPLETE, PARTIAL, FAILED, SKIPPED, NOT_SELECTED)
}
"""The phases that a stored task may have, by name."""

CONDITION_NOT_MET = "its condition (when) was not met"


class Change(NamedTuple):
    """A side effect on another task.

    phase: SKIPPED, NOT_SELECTED or FAILED for a task that ended without a start; WAITING for a
        task whose running attempt was undone.
    """

    task_index: int
    phase: Phase


class Undone(NamedTuple):
    """A loop or a retry took back the events of a task.

    attempt: the number of its last attempt; 0 if it had not started.
    removed: whether the task is not part of the run any more.
    """

    attempt: int
    removed: bool


DependencyOutcomes = Tuple[Dict[str, Any], Dict[str, str], Dict[str, str], Dict[str, str]]


class RunState:
    """The state of one run; the module's docstring has the transitions.

    plan: the graph with its names resolved.
    stop_on_failure: start nothing more after the first FAILED task; default False.
    max_tasks: how many tasks the run may have, revoked ones not counted; default unlimited.
    is_durable: start no task before `release`, but for those that are ready from the beginning;
        default False.
    """

    def __init__(
        self,
        plan: Plan,
        stop_on_failure: bool = False,
        max_tasks: Optional[int] = None,
        is_durable: bool = False,
    ) -> None:
        size = len(plan.nodes)
        self.nodes = plan.nodes
        self.dependencies = plan.dependencies
        self.dependents = plan.dependents
        self.stop_on_failure = stop_on_failure
        self.stopped: Optional[str] = None
        self.reason: Optional[str] = None
        self.pending = [len(before) for before in plan.dependencies]
        # Sorted, and therefore a heap.
        self.ready = [index for index, count in enumerate(self.pending) if not count]
        self.is_durable = is_durable
        self.batch = 0
        self.unreleased: Dict[int, int] = {}  # in the order of the batches
        self.phases = [WAITING if count else READY for count in self.pending]
        self.results: List[Any] = [None] * size
        self.errors: List[Optional[str]] = [None] * size
        self.visits = [0] * size
        self.attempts = [0] * size
        self.delayed: List[Tuple[float, int]] = []
        self.engine_errors: Dict[int, GraphError] = {}
        self.routes: Dict[int, FrozenSet[int]] = {}
        self.feedback: Dict[int, Dict[str, Any]] = {}
        self.spawned: Dict[int, List[int]] = {}
        self.inserted: Dict[int, List[int]] = {}
        self._max_tasks = max_tasks
        self._size = size  # without revoked tasks
        self.unfinished = size
        self.changes: List[Change] = []
        self.undone: Dict[int, Undone] = {}
        self.cut_off: List[int] = []
        self.revoked: List[int] = []
        self.held: Dict[int, str] = {}
        self.parked: Set[int] = set()
        self.resuming: Set[int] = set()
        self.order_only = plan.order_only
        self._groups = plan.groups
        self._moments: Dict[int, float] = {}
        self._indexes: Optional[Dict[object, Union[int, GroupRefs]]] = None

    @property
    def finished(self) -> bool:
        """Return whether every task is final."""
        return not self.unfinished

    @property
    def indexes(self) -> Dict[object, Union[int, GroupRefs]]:
        """The tasks' indexes by name and by task id, and the groups by name."""
        if self._indexes is None:
            indexes: Dict[object, Union[int, GroupRefs]] = dict(self._groups.items())
            indexes.update((node.name, index) for index, node in enumerate(self.nodes))
            indexes.update((node.task.id, index) for index, node in enumerate(self.nodes))
            self._indexes = indexes
        return self._indexes

    # One task

    def start_next(self, now: float) -> Optional[int]:
        """Start the next ready task; EVALUATING if it has a `when`, otherwise EXECUTING.

        now: the current `clock.monotonic()`; used only if attempts are delayed.

        Returns the index, or None if no task is ready.
        """
        if self.delayed:
            self.release_due(now)
        while self.ready:
            index = heapq.heappop(self.ready)
            if self.phases[index] is not READY or index in self.unreleased:
                continue  # it was reset or skipped while it was in the heap
            if self.nodes[index].when is not None and not self.attempts[index]:
                self.phases[index] = EVALUATING
                return index
            if self._start(index):
                return index
        return None

    def _start(self, index: int) -> bool:
        node = self.nodes[index]
        if not self.attempts[index]:
            if self.visits[index] >= node.max_visits:
                self.changes.append(Change(index, FAILED))
                error = GraphError(
                    f"{node.name!r} was started {node.max_visits} times already, its max_visits"
                )
                self.engine_errors[index] = error
                self._fail(index, format_error(error))
                return False
            self.visits[index] += 1
        if self.resuming and index in self.resuming:
            self.resuming.discard(index)
        else:
            self.attempts[index] += 1
        self.phases[index] = EXECUTING
        _move(node.task, TaskStatus.EXECUTING)
        return True

    def apply_condition(self, index: int, met: bool) -> bool:
        """Start a task whose `when` was evaluated, or end it as NOT_SELECTED.

        Returns whether it started.
        """
        if met:
            return self._start(index)
        self._skip(index, NOT_SELECTED, CONDITION_NOT_MET)
        self._propagate(index)
        return False

    def finish(
        self,
        index: int,
        status: TaskStatus,
        result: Any = None,
        error: Optional[str] = None,
        route: Optional[Sequence[str]] = None,
        waits_for: Optional[str] = None,
    ) -> TaskStatus:
        """End the visit of a task.

        route: the names in the Route that its handler returned, if it returned one.
        waits_for: what the task waits for, for which its dependents are skipped; or None.

        Returns the final status: FAILED if the Route is invalid, otherwise `status`.
        """
        if route is not None:
            try:
                selected, targets = self._resolve_route(index, route)
            except GraphError as invalid:
                self.engine_errors[index] = invalid
                status, result, error = TaskStatus.FAILED, None, format_error(invalid)
            else:
                if not targets:
                    self.routes[index] = selected
                elif self.stopped is None:
                    self._rewind(index, targets, result)
                    return status
        if status is TaskStatus.FAILED:
            self._fail(index, error)
        else:
            if waits_for is not None:
                self.held[index] = (
                    f"its dependency {self.nodes[index].name!r} waits for {waits_for}"
                )
            _move(self.nodes[index].task, status, result, error)
            self._finalize(index, _FINAL_PHASES[status], result, error)
            self._propagate(index)
        return status

    def can_retry(self, index: int) -> bool:
        """Return whether a failed attempt may be repeated, as far as its number is concerned."""
        node = self.nodes[index]
        if node.retry is None or (self.stopped is not None and not node.always):
            return False
        return self.attempts[index] < node.retry.attempts

    def retry(self, index: int, moment: float) -> None:
        """End an attempt; the next one is due at `moment`."""
        self.phases[index] = DELAYED
        self._moments[index] = moment
        heapq.heappush(self.delayed, (moment, index))
        _move(self.nodes[index].task, TaskStatus.WAITING)
        self._revoke_spawned(index)

    def park(self, index: int) -> None:
        """Interrupt an attempt until `unpark`."""
        self.phases[index] = PARKED
        self.parked.add(index)
        _move(self.nodes[index].task, TaskStatus.WAITING)
        self._revoke_spawned(index)

    def unpark(self, index: int) -> None:
        """Continue the attempt of a parked task: its handler is called again."""
        self.parked.discard(index)
        self.resuming.add(index)
        self._make_ready(index)

    @property
    def can_progress(self) -> bool:
        """Return whether a task is ready, or is about to be repeated."""
        phases = self.phases
        return (
            any(phases[index] is READY for index in self.ready)
            or any(phases[index] is READY for index in self.unreleased)
            or any(phases[index] is DELAYED for _, index in self.delayed)
        )

    def release_due(self, now: float) -> None:
        """Make the delayed tasks ready whose moment has come."""
        while self.delayed and self.delayed[0][0] <= now:
            moment, index = heapq.heappop(self.delayed)
            if self.phases[index] is DELAYED and self._moments[index] == moment:
                self._make_ready(index)

    def _make_ready(self, index: int) -> None:
        self.phases[index] = READY
        if self.is_durable:
            self.unreleased.pop(index, None)  # so that the order is that of the batches
            self.unreleased[index] = self.batch
        else:
            heapq.heappush(self.ready, index)

    def release(self, batch: int) -> bool:
        """Let the tasks start that are ready because of what a batch, or an earlier one, contains.

        Returns whether there are any.
        """
        released = False
        while self.unreleased:
            index = next(iter(self.unreleased))
            if self.unreleased[index] > batch:
                break
            del self.unreleased[index]
            if self.phases[index] is READY:
                heapq.heappush(self.ready, index)
                released = True
        return released

    def _fail(self, index: int, error: Optional[str]) -> None:
        _move(self.nodes[index].task, TaskStatus.FAILED, None, error)
        self._finalize(index, FAILED, None, error)
        if self.stop_on_failure:
            self.stop(f"the run stopped after {self.nodes[index].name!r} failed")
        else:
            self._propagate(index)

    def _finalize(self, index: int, phase: Phase, result: Any, text: Optional[str]) -> None:
        self.results[index] = result
        self.errors[index] = text
        self.phases[index] = phase
        self.unfinished -= 1

    # Dependents

    def _propagate(self, index: int) -> None:
        """Count down the dependents of a final task, and so on for those that become final."""
        final = [index]
        for index in final:  # grows during the walk
            for dependent in self.dependents[index]:
                pending = self.pending[dependent] = self.pending[dependent] - 1
                if not pending and self.phases[dependent] is WAITING:
                    if self._resolve_ready(dependent):
                        final.append(dependent)

    def _resolve_ready(self, index: int) -> bool:
        """Ready or skip a task whose dependencies are all final. Return whether it is final."""
        has_input, failed_dep, bypassed_by = False, None, None
        for dependency in self.dependencies[index]:
            phase = self.phases[dependency]
            if phase is COMPLETE or phase is PARTIAL:
                if dependency not in self.routes or index in self.routes[dependency]:
                    has_input = True
                elif dependency not in self.order_only.get(index, ()):
                    bypassed_by = dependency
            elif failed_dep is None and (phase is FAILED or phase is SKIPPED):
                failed_dep = dependency
        node = self.nodes[index]
        held_by = None
        if self.held:
            held_by = next((one for one in self.dependencies[index] if one in self.held), None)
        if node.always:
            self._make_ready(index)
            return False
        if bypassed_by is not None:
            reason = f"{self.nodes[bypassed_by].name!r} routed past it"
            self._skip(index, NOT_SELECTED, reason)
        elif held_by is not None:
            reason = self.held[index] = self.held[held_by]
            self._skip(index, SKIPPED, reason)
        elif failed_dep is not None and not node.allow_failure:
            happened = "failed" if self.phases[failed_dep] is FAILED else "was skipped"
            reason = f"its dependency {self.nodes[failed_dep].name!r} {happened}"
            self._skip(index, SKIPPED, reason)
        elif has_input or failed_dep is not None or not self.dependencies[index]:
            self._make_ready(index)
            return False
        else:
            self._skip(index, NOT_SELECTED, "all that it depends on was ruled out")
        return True

    def _skip(self, index: int, phase: Phase, reason: str) -> None:
        self._finalize(index, phase, None, reason)
        self.changes.append(Change(index, phase))

    # Routes

    def resolve_targets(self, index: int, names: Sequence[str]) -> Tuple[Set[int], List[int]]:
        """Resolve names that a Route of a task may have.

        Returns the dependents among them, and the tasks before it. Raises GraphError for a name of
        neither.
        """
        node, dependents = self.nodes[index], set(self.dependents[index])
        resolved = [
            node.resolve(name, self.indexes) if isinstance(name, str) else None for name in names
        ]
        upstream = self._upstream(
            index, [one for one in resolved if isinstance(one, int) and one not in dependents]
        )
        selected: Set[int] = set()
        targets: List[int] = []
        for name, target in zip(names, resolved):
            wrong = f"the Route of {node.name!r} names {name!r}"
            if target is None:
                raise GraphError(f"{wrong}, which is not in the run")
            if not isinstance(target, int):
                raise GraphError(f"{wrong}, a group: a Route names tasks")
            if target in dependents:
                selected.add(target)
            elif target in upstream:
                targets.append(target)
            else:
                raise GraphError(f"{wrong}, which neither depends on it nor comes before it")
        return selected, targets

    def _resolve_route(self, index: int, names: Sequence[str]) -> Tuple[FrozenSet[int], List[int]]:
        """Resolve the names in a Route.

        Returns the dependents that it selects, or the tasks that it goes back to. Raises
        GraphError for an invalid Route.
        """
        node = self.nodes[index]
        selected, targets = self.resolve_targets(index, names)
        if selected and targets:
            raise GraphError(
                f"the Route of {node.name!r} cannot go forwards and backwards at once: "
                + ", ".join(names)
            )
        for target in targets + [index] if targets else []:
            if self.visits[target] >= self.nodes[target].max_visits:
                raise GraphError(
                    f"{self.nodes[target].name!r} was started {self.visits[target]} times, its "
                    f"max_visits: {node.name!r} cannot go back once more"
                )
        return frozenset(selected), targets

    def _downstream(self, targets: Iterable[int]) -> Dict[int, None]:
        """Return the targets, and all tasks downstream of them that are not WAITING any more."""
        found: Dict[int, None] = dict.fromkeys(targets)
        walk = list(found)
        for index in walk:  # grows during the walk
            if self.phases[index].is_final:  # otherwise its dependents are still WAITING
                for dependent in self.dependents[index]:
                    if dependent not in found and self.phases[dependent] not in (WAITING, REVOKED):
                        found[dependent] = None
                        walk.append(dependent)
        return found

    def _upstream(self, index: int, targets: List[int]) -> Set[int]:
        """Return a task, and the tasks upstream of it that are downstream of the targets."""
        downstream, found = self._downstream(targets), {index}
        walk = [index] if targets else []
        for one in walk:  # grows during the walk
            for dependency in self.dependencies[one]:
                phase = self.phases[dependency]
                if dependency in downstream and dependency not in found:
                    if phase.is_final and phase is not REVOKED:
                        found.add(dependency)
                        walk.append(dependency)
        return found

    def _rewind(self, router: int, targets: List[int], result: Any) -> None:
        """Reset the targets, and all tasks downstream that are not WAITING; ready the targets."""
        reset = self._downstream(targets)
        for index in reset:
            if self.phases[index].is_final:
                self.unfinished += 1
                for dependent in self.dependents[index]:
                    self.pending[dependent] += 1
        for index in reset:
            if self.phases[index] in (EXECUTING, EVALUATING) and index != router:
                self.changes.append(Change(index, WAITING))
            if self._was_published(index):
                self.undone[index] = Undone(self.attempts[index], False)
            self.phases[index] = WAITING
            self.results[index] = self.errors[index] = None
            self.attempts[index] = 0
            self.routes.pop(index, None)
            self.feedback.pop(index, None)
            self.held.pop(index, None)
            self.parked.discard(index)
            self.resuming.discard(index)
            _move(self.nodes[index].task, TaskStatus.WAITING)
        for index in reset:
            self._revoke_spawned(index)
        for target in targets:
            name = self.nodes[target].local_name(self.nodes[router].name)
            self.feedback[target] = {name: result}
            if not self.pending[target] and self.phases[target] is WAITING:
                if self._resolve_ready(target):
                    self._propagate(target)  # it could not start before, and cannot now

    def _was_published(self, index: int) -> bool:
        """Return whether there are events of the task since it was reset the last time."""
        return self.phases[index].is_final or self.attempts[index] > 0

    # Spawned tasks

    def spawn(self, parent: int, node: Node, before_dependents: bool = False) -> int:
        """Add a task on behalf of a running attempt.

        parent: the index of the task that spawns.
        node: the new task.
        before_dependents: whether the dependents of the parent, but for those that it spawned
            itself, depend on the new task as well; default False.

        Returns its index. Raises GraphError if its name or task is in the run already, if a
        dependency is unknown or would wait for the new task, or if the run is full.
        """
        if self._max_tasks is not None and self._size >= self._max_tasks:
            raise GraphError(
                f"{node.name!r} cannot be spawned: the run has {self._size} tasks, its max_tasks"
            )
        if node.name in self.indexes:
            raise GraphError(f"there is a task or a group named {node.name!r} already")
        if node.task.id in self.indexes:
            raise GraphError(
                f"the task of {node.name!r} is in the run already; spawn a copy: Task(type=…, …)"
            )
        real: List[int] = []
        extra: List[int] = []
        for dependency in node.depends_on:
            if isinstance(dependency, Task):
                found = self.indexes.get(dependency.id)
            else:
                found = node.resolve(dependency, self.indexes)
            if found is None:
                raise unknown_dependency(node.name, dependency, "run")
            if isinstance(found, int):
                real.append(found)
            else:
                (extra if found.empty else real).extend(found.indexes)
        dependencies = list(dict.fromkeys(real + extra))
        inserted = self._find_inserted(parent, node, dependencies) if before_dependents else []
        index = len(self.nodes)
        self.nodes.append(node)
        self.dependencies.append(tuple(dependencies))
        self.dependents.append([])
        self.phases.append(WAITING)
        self.pending.append(sum(not self.phases[one].is_final for one in dependencies))
        self.results.append(None)
        self.errors.append(None)
        self.visits.append(0)
        self.attempts.append(0)
        self.unfinished += 1
        self._size += 1
        if extra:
            self.order_only[index] = frozenset(extra).difference(real)
        for before in dependencies:
            self.dependents[before].append(index)
        self.indexes[node.name] = self.indexes[node.task.id] = index
        self.spawned.setdefault(parent, []).append(index)
        if inserted:
            self.inserted[index] = inserted
            self.dependents[index] += inserted
        for dependent in inserted:
            self.dependencies[dependent] += (index,)
            self.pending[dependent] += 1
        if self.stopped is not None and not node.always:
            self._skip(index, SKIPPED, self.stopped)
            self._propagate(index)  # dependents of its spawner may wait for it
        elif not self.pending[index] and self._resolve_ready(index):
            self._propagate(index)
        return index

    def _find_inserted(self, parent: int, node: Node, dependencies: List[int]) -> List[int]:
        """Return the dependents of a task that shall depend on a new task as well.

        Raises GraphError if the new task would wait for one of them.
        """
        own = set(self.spawned.get(parent, ()))
        # They are WAITING, since the parent is running; unless the run was stopped.
        dependents = [
            one for one in self.dependents[parent] if one not in own and self.phases[one] is WAITING
        ]
        waiting, walk = set(dependents), list(dependencies)
        seen = set(walk)
        for index in walk if waiting else ():  # grows during the walk
            if index in waiting:
                raise GraphError(
                    f"{node.name!r} would wait for {self.nodes[index].name!r}, which waits for it "
                    "because of before_dependents=True"
                )
            for dependency in self.dependencies[index]:
                if dependency not in seen and not self.phases[dependency].is_final:
                    seen.add(dependency)
                    walk.append(dependency)
        return dependents

    def _revoke_spawned(self, index: int) -> None:
        """Revoke what an undone attempt spawned, and what those tasks spawned."""
        walk = self.spawned.pop(index, [])
        unfinished: List[int] = []
        for child in walk:  # grows during the walk
            walk += self.spawned.pop(child, [])
            del self.indexes[self.nodes[child].name], self.indexes[self.nodes[child].task.id]
            phase = self.phases[child]
            if phase in (EXECUTING, EVALUATING):
                self.changes.append(Change(child, WAITING))
            if self._was_published(child):
                self.undone[child] = Undone(self.attempts[child], True)
            elif child in self.undone:  # the loop that revokes it has reset it before
                self.undone[child] = self.undone[child]._replace(removed=True)
            _move(self.nodes[child].task, TaskStatus.WAITING)
            if not phase.is_final:
                unfinished.append(child)
                self.unfinished -= 1
            self.phases[child] = REVOKED
            self.revoked.append(child)
            self.held.pop(child, None)
            self.parked.discard(child)
            self.results[child] = None
            self._size -= 1
            for dependent in self.inserted.pop(child, ()):
                self.dependencies[dependent] = tuple(
                    one for one in self.dependencies[dependent] if one != child
                )
        for child in unfinished:  # after all are revoked, so that none of them is resolved
            self._propagate(child)

    # Restoring

    def restore(self, records: Mapping[int, TaskRecord], everything: bool = False) -> None:
        """Put the outcomes of an earlier drive in place. Called before the first step.

        What follows from them is decided anew: which tasks are ready, skipped or ruled out.

        records: what was kept of each task.
        everything: whether the run has ended, and its tasks stay as they are.
        """
        skipped: Dict[int, Optional[str]] = {}
        for index, record in records.items():
            self._restore_task(index, record, everything)
            if not self.phases[index].is_final:
                skipped[index] = record.error if PHASES[record.phase].is_final else None
        phases = self.phases
        for index, phase in enumerate(phases):
            if phase is READY:
                phases[index] = WAITING
            self.pending[index] = sum(not phases[one].is_final for one in self.dependencies[index])
        self.ready = []
        self.unreleased.clear()
        if everything:
            return
        self.stop_after_failure(records)
        waiting = [index for index, count in enumerate(self.pending) if not count]
        for index in waiting:
            if phases[index] is WAITING and self._resolve_ready(index):
                self._propagate(index)
        # In a graph that was changed, a parked task may depend on tasks that have not finished.
        for index in [index for index in self.parked if self.pending[index]]:
            self.parked.discard(index)
            self.resuming.add(index)
            phases[index] = WAITING
        # Readers of the earlier drives know these already.
        self.changes = [
            change
            for change in self.changes
            if change.task_index not in skipped
            or skipped[change.task_index] != self.errors[change.task_index]
        ]

    def restore_spawned(self, index: int, record: TaskRecord) -> None:
        """Put what an earlier drive has kept in place of a task that was just spawned."""
        self._restore_task(index, record, False)
        phase = self.phases[index]
        if phase.is_final and not (self.stop_on_failure and phase is FAILED):
            self._propagate(index)

    def stop_after_failure(self, restored: Iterable[int]) -> None:
        """Stop the run if one of the tasks that were restored stops it."""
        if self.stop_on_failure:
            failed = next((index for index in restored if self.phases[index] is FAILED), None)
            if failed is not None:
                self.stop(f"the run stopped after {self.nodes[failed].name!r} failed")

    def _restore_task(self, index: int, record: TaskRecord, everything: bool) -> None:
        """Restore one task, without its effects on others."""
        phase = PHASES[record.phase]
        self.visits[index], self.attempts[index] = record.visit, record.attempt
        if record.feedback:
            self.feedback[index] = dict(record.feedback)
        if phase is PARKED:
            self.phases[index] = PARKED
            self.parked.add(index)
        derived = phase is SKIPPED or (phase is NOT_SELECTED and record.error != CONDITION_NOT_MET)
        if not phase.is_final or (derived and not everything):
            return
        if phase.status.is_final:
            _move(self.nodes[index].task, phase.status, record.result, record.error)
        self._finalize(index, phase, record.result, record.error)
        if record.route is not None:
            names = (self.indexes.get(name) for name in record.route)
            self.routes[index] = frozenset(name for name in names if isinstance(name, int))
        if record.waits_for is not None:
            self.held[index] = (
                f"its dependency {self.nodes[index].name!r} waits for {record.waits_for}"
            )

    # The end

    def stop(self, why: str, keep_always: bool = True, reason: Optional[str] = None) -> None:
        """Start nothing more. Attempts that are running may still finish.

        why: why tasks are skipped.
        keep_always: whether to start tasks with `always` nevertheless, once their dependencies are
            final.
        reason: why the run ends early; default `why`. The first one is kept.
        """
        self.stopped = why
        if self.reason is None:
            self.reason = reason or why
        kept: List[int] = []
        for index, phase in enumerate(self.phases):
            if not phase.is_final and phase is not EXECUTING:
                if keep_always and self.nodes[index].always:
                    kept.append(index)
                elif phase is EVALUATING:
                    self._skip(index, SKIPPED, why)
                else:
                    # In place of `_skip`: there may be many, and Ctrl-C waits for this.
                    self.phases[index], self.errors[index] = SKIPPED, why
                    self.unfinished -= 1
                    self.cut_off.append(index)
        self.parked = {index for index in self.parked if self.phases[index] is PARKED}
        # Sorted, and therefore a heap.
        self.ready = [
            index for index in kept if self.phases[index] is READY and index not in self.unreleased
        ]
        self.delayed = [one for one in self.delayed if self.phases[one[1]] is DELAYED]
        heapq.heapify(self.delayed)
        for index in kept:
            if self.phases[index] is WAITING:
                pending = sum(not self.phases[one].is_final for one in self.dependencies[index])
                self.pending[index] = pending
                if not pending:
                    self._resolve_ready(index)

    def end(
        self, why: str, error: str, keep_always: bool = False, reason: Optional[str] = None
    ) -> List[int]:
        """End the run now: fail running tasks with `error`, and skip the rest.

        Without `keep_always` it does not rely on the counters: it also ends a run in which an
        exception, such as Ctrl-C, interrupted another step half-way.

        why, reason: as for `stop`.
        keep_always: whether to leave tasks with `always` alone: they run, and then the run ends.

        Returns the indexes of the tasks that it failed.
        """
        failed = []
        for index, phase in enumerate(self.phases):
            if keep_always and self.nodes[index].always:
                continue
            task = self.nodes[index].task
            interrupted = task.status is TaskStatus.EXECUTING and phase is not REVOKED
            if phase is EXECUTING or interrupted:
                failed.append(index)
                _move(task, TaskStatus.FAILED, None, error)
                self._finalize(index, FAILED, None, error)
        self.stop(why, keep_always, reason)
        if not keep_always:
            self.unfinished = 0
        return failed

    # Results

    @property
    def status(self) -> TaskStatus:
        """The status of the run, derived from the phases of its tasks."""
        if not self.finished:
            idle = self.parked and EXECUTING not in self.phases and not self.can_progress
            return TaskStatus.WAITING if idle else TaskStatus.EXECUTING
        statuses = {phase.status for phase in set(self.phases) - {NOT_SELECTED, REVOKED}}
        if statuses <= {TaskStatus.COMPLETE} and (statuses or self.reason is None):
            return TaskStatus.COMPLETE
        if statuses & {TaskStatus.COMPLETE, TaskStatus.PARTIAL}:
            return TaskStatus.PARTIAL
        return TaskStatus.FAILED

    def dependency_outcomes(self, index: int) -> DependencyOutcomes:
        """Return how a task's dependencies ended, by the names that the task uses.

        Returns four dicts: the results; the errors of those that are PARTIAL; why dependencies
        failed or were skipped; why dependencies did not run. The last two have order-only
        dependencies, too.
        """
        names = self._local_names(index) if self.nodes[index].namespaces else None
        order_only = self.order_only.get(index, ())
        inputs: Dict[str, Any] = {}
        partial: Dict[str, str] = {}
        failed: Dict[str, str] = {}
        skipped: Dict[str, str] = {}
        for dependency in self.dependencies[index]:
            phase = self.phases[dependency]
            name = self.nodes[dependency].name
            if names:
                name = names[name]
            if phase is COMPLETE or phase is PARTIAL:
                if dependency not in order_only:
                    inputs[name] = self.results[dependency]
                    if phase is PARTIAL:
                        partial[name] = self.errors[dependency] or ""
            elif phase is not REVOKED:
                reason = self.errors[dependency] or ""
                if phase is not NOT_SELECTED:
                    failed[name] = reason
                if phase is not FAILED:
                    skipped[name] = reason
        return inputs, partial, failed, skipped

    def _local_names(self, index: int) -> Dict[str, str]:
        return self.nodes[index].local_names(
            self.nodes[dependency].name for dependency in self.dependencies[index]
        )


def _move(task: Task, status: TaskStatus, result: Any = None, error: Optional[str] = None) -> None:
    """Move a task from any status: its handler may have moved it, although only the run should."""
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
