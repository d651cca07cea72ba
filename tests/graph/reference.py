"""The reference: a slow interpreter of runs, written from the rules, without the library.

A scenario is a list of Specs. The script of a Spec says what its handler does at each visit and
attempt (a Do), and depends on nothing else. The value that a handler returns is made of everything
that it received (`act`), so a wrong input changes the result of every task downstream. `interpret`
executes one task at a time, to its end: the first ready one in the order of adding.

The fate of a task, once each of its dependencies has ended (is final, skipped or ruled out):

1.  the task is added with always: rules 2 to 5 do not apply
2.  one of them ran, and its Route does not name the task: ruled out
3.  one waits for approval, or is downstream of one that does: skipped
4.  one failed or was skipped, and failure is not allowed: skipped
5.  there are some, and all of them were ruled out: ruled out
6.  when(inputs) is false: ruled out; raises: failed
7.  it was started max_visits times: failed; else it is ready

In a run that stops at its first failure, only tasks with always start after it.
"""

import zlib
from typing import NamedTuple, Optional, Tuple

DUPLICATE, UNKNOWN_DEPENDENCY, UNKNOWN_TYPE = "!duplicate", "!unknown dependency", "!unknown type"
"""Invalid tasks that a Do may spawn, beside the names of Specs."""

WITH_RESULT = ("COMPLETE", "PARTIAL")


class Do(NamedTuple):
    """The script of one attempt: first it spawns, then it ends.

    end: "return", "partial", "waits" (partial, and waits for approval), "route", "fail" (may be
        retried) or "fatal" (never retried).
    names: the names in the Route.
    spawns: names of Specs, or an invalid task, for which the attempt raises.
    """

    end: str = "return"
    names: Tuple[str, ...] = ()
    spawns: Tuple[str, ...] = ()


class Spec(NamedTuple):
    """A task, its options and its script.

    when: None, "odd" (true for about half of all inputs), "odd context" (likewise, of inputs and
        context), "raises", or the name of a dependency (true if it has a result).
    attempts: those of its Retry; 1 for none.
    script: for each visit, for each attempt, a Do; the last ones are repeated.
    spawner: the task that may spawn it; None for a task of the graph.
    loose: the number of its visits depends on timing, so nothing that it does or returns may
        depend on its visit and feedback.
    """

    name: str
    depends_on: Tuple[str, ...] = ()
    allow_failure: bool = False
    when: Optional[str] = None
    attempts: int = 1
    max_visits: int = 5
    script: Tuple[Tuple[Do, ...], ...] = ((Do(),),)
    spawner: Optional[str] = None
    loose: bool = False
    always: bool = False


class Seen(NamedTuple):
    """The ends of a task's dependencies, as its context shows them: results by name, and names."""

    inputs: dict
    partial: list
    failed: list
    skipped: list

    @classmethod
    def of(cls, inputs, partial, failed, skipped):
        """Return a Seen for the four dicts of a context."""
        return cls(dict(inputs), sorted(partial), sorted(failed), sorted(skipped))


class Expected(NamedTuple):
    """The expected end of a run, by task name, for the tasks that are part of it then.

    errors: the type of the exception, or "half" for PARTIAL.
    skipped: "skipped" or "ruled out".
    visits: how often each task started; meaningful if nothing depends on timing.
    order: the names at each start; likewise.
    """

    status: str
    statuses: dict
    results: dict
    errors: dict
    skipped: dict
    visits: dict
    order: list


def stamp(name, *seen):
    """Return a short text that depends on everything that was seen."""
    return f"{name}:{zlib.crc32(repr(seen).encode()):08x}"


def does(spec, visit, attempt):
    """Return the Do of one attempt."""
    attempts = spec.script[min(1 if spec.loose else visit, len(spec.script)) - 1]
    return attempts[min(attempt, len(attempts)) - 1]


def act(spec, seen, feedback, visit, attempt):
    """Return (Do, value) of one attempt. feedback: values by name."""
    if spec.loose:
        visit, feedback = 1, {}
    inputs = list(seen.inputs.items())
    value = stamp(spec.name, inputs, seen[1:], sorted(feedback.items()), visit, attempt)
    return does(spec, visit, attempt), value


def passes(when, seen):
    """Return what a task's `when` returns."""
    if when == "raises":
        raise LookupError("when cannot say")
    if when == "odd":
        return int(stamp("when", list(seen.inputs.items()))[-1], 16) % 2 == 1
    if when == "odd context":
        return int(stamp("when", list(seen.inputs.items()), seen[1:])[-1], 16) % 2 == 1
    return when in seen.inputs


class _Instance:
    """A task of the run.

    fate: None (not decided), "ready", "skipped" or "ruled out".
    held: whether it waits for approval, or is skipped because of a task that does.
    """

    def __init__(self, spec):
        self.spec = spec
        self.name = spec.name
        self.visits = 0
        self.feedback = {}  # for its next visit
        self.reset()

    def reset(self):
        self.status = "WAITING"
        self.fate = self.result = self.error = self.route = None
        self.held = False

    def settle(self, status, result=None, error=None, route=None, held=False):
        self.status, self.result, self.error, self.route = status, result, error, route
        self.held = held

    @property
    def over(self):
        return self.status != "WAITING" or self.fate in ("skipped", "ruled out")


class _Failure(Exception):
    """An attempt raised; the argument is the type of its exception."""


class _Run:
    def __init__(self, specs):
        self.specs = {spec.name: spec for spec in specs}
        self.tasks = {
            spec.name: _Instance(spec) for spec in specs if spec.spawner is None
        }  # in the order of adding
        self.order = []
        self.stopped = False

    # Relations

    def dependents(self, name):
        return [task.name for task in self.tasks.values() if name in task.spec.depends_on]

    def descendants(self, names):
        """Return the names, and all tasks downstream of them."""
        found = list(names)
        for name in found:  # grows during the walk
            found += [dependent for dependent in self.dependents(name) if dependent not in found]
        return found

    def ancestors(self, name):
        """Return the name, and all tasks upstream of it."""
        return [other for other in self.tasks if name in self.descendants([other])]

    # Fates

    def fate(self, task):
        """Return ready, skipped or ruled out; None while a dependency has not ended."""
        dependencies = [self.tasks[name] for name in task.spec.depends_on if name in self.tasks]
        if not all(dependency.over for dependency in dependencies):
            return None
        if task.spec.always:
            return "ready"
        if any(
            dependency.route is not None and task.name not in dependency.route
            for dependency in dependencies
        ):
            return "ruled out"
        if any(dependency.held for dependency in dependencies):
            task.held = True
            return "skipped"
        fruitless = [
            dependency
            for dependency in dependencies
            if dependency.status == "FAILED" or dependency.fate == "skipped"
        ]
        if fruitless and not task.spec.allow_failure:
            return "skipped"
        return (
            "ready"
            if not task.spec.depends_on or self.seen(task).inputs or fruitless
            else "ruled out"
        )

    def seen(self, task):
        before = [self.tasks[name] for name in task.spec.depends_on if name in self.tasks]
        return Seen.of(
            {one.name: one.result for one in before if one.status in WITH_RESULT},
            [one.name for one in before if one.status == "PARTIAL"],
            [one.name for one in before if one.status == "FAILED" or one.fate == "skipped"],
            [one.name for one in before if one.fate in ("skipped", "ruled out")],
        )

    # Steps

    def decide(self):
        """Decide every fate that can be decided."""
        changed = True
        while changed:
            changed = False
            for task in self.tasks.values():
                if task.fate is None and task.status == "WAITING":
                    task.fate = self.fate(task)
                    changed = changed or task.fate is not None

    def execute(self, task):
        """Make one visit: as many attempts as its Retry allows, and the effects of the last."""
        try:
            if task.spec.when is not None and not passes(task.spec.when, self.seen(task)):
                task.fate = "ruled out"
                return None
        except LookupError:
            return task.settle("FAILED", error="LookupError")
        if task.visits >= task.spec.max_visits:
            return task.settle("FAILED", error="GraphError")
        task.visits += 1
        feedback, task.feedback = task.feedback, {}
        self.order.append(task.name)
        seen = self.seen(task)
        for attempt in range(1, task.spec.attempts + 1):
            do, value = act(task.spec, seen, feedback, task.visits, attempt)
            try:
                for name in do.spawns:
                    self.spawn(name)
                if do.end in ("fail", "fatal"):
                    raise _Failure({"fail": "ValueError", "fatal": "NonRetryableError"}[do.end])
            except _Failure as failure:
                kind = failure.args[0]
                if attempt < task.spec.attempts and kind != "NonRetryableError":
                    self.revoke(task.name)
                    continue
                return task.settle("FAILED", error=kind)
            if do.end in ("partial", "waits"):
                return task.settle("PARTIAL", value, error="half", held=do.end == "waits")
            if do.end == "route":
                return self.route(task, do.names, value)
            return task.settle("COMPLETE", value)

    def spawn(self, name):
        if name not in self.specs or name in self.tasks:
            raise _Failure("GraphError")
        spec = self.specs[name]
        if not set(spec.depends_on) <= set(self.tasks):
            raise _Failure("GraphError")
        self.tasks[name] = _Instance(spec)

    def revoke(self, spawner):
        """Remove what a task's attempt spawned, transitively."""
        for name in [task.name for task in self.tasks.values() if task.spec.spawner == spawner]:
            self.revoke(name)
            del self.tasks[name]

    def route(self, task, names, value):
        behind, before = self.dependents(task.name), self.ancestors(task.name)
        if set(names) <= set(behind):
            return task.settle("COMPLETE", value, route=names)
        if not set(names) <= set(before):
            return task.settle("FAILED", error="GraphError")
        for one in [task] + [self.tasks[name] for name in names]:
            if one.visits >= one.spec.max_visits:
                return task.settle("FAILED", error="GraphError")
        if self.stopped:
            return task.settle("COMPLETE", value)
        for name in self.descendants(names):
            if name in self.tasks:  # otherwise an earlier one had spawned it
                if self.tasks[name].fate is not None:
                    # It was for the visit that this loop undoes.
                    self.tasks[name].feedback = {}
                self.tasks[name].reset()
                self.revoke(name)
        for name in set(names) & set(self.tasks):
            self.tasks[name].feedback[task.name] = value

    def stop(self):
        self.stopped = True
        for task in self.tasks.values():
            if not task.over and not task.spec.always:
                task.fate = "skipped"


def interpret(specs, stop_on_failure=False, choose=lambda ready: ready[0]):
    """Return the expected end of a run. choose: picks the next task among the ready ones."""
    run = _Run(specs)
    while True:
        if stop_on_failure and any(task.status == "FAILED" for task in run.tasks.values()):
            run.stop()
        run.decide()
        ready = [
            task for task in run.tasks.values() if task.fate == "ready" and task.status == "WAITING"
        ]
        if not ready:
            break
        run.execute(choose(ready))
    tasks = list(run.tasks.values())
    statuses = {task.name: task.status for task in tasks}
    counted = [task.status for task in tasks if task.fate != "ruled out"]
    if set(counted) <= {"COMPLETE"}:
        status = "COMPLETE"
    else:
        status = "PARTIAL" if set(counted) & set(WITH_RESULT) else "FAILED"
    return Expected(
        status,
        statuses,
        {task.name: task.result for task in tasks if task.status in WITH_RESULT},
        {task.name: task.error for task in tasks if task.error is not None},
        {task.name: task.fate for task in tasks if task.status == "WAITING"},
        {task.name: task.visits for task in tasks},
        run.order,
    )
