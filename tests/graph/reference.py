"""What should become of a run: a slow interpreter of plain data, written from the rules, that imports nothing of the package.

A scenario is a list of Specs. A Spec's script says what its handler does at each visit and attempt (a Do), as a function of
nothing else; what it returns is made of all that it was given (`act`), so that a wrong input changes the result of every task
behind it. `interpret` executes one task at a time, the first ready one in the order of adding, to its end.

A task's fate, once each of its dependencies is over (settled, skipped or ruled out):

1.  one of them ran, and its Route does not name the task: ruled out
2.  one failed or was skipped, and failure is not allowed: skipped
3.  there are some, and all of them were ruled out: ruled out
4.  when(inputs) is false: ruled out; raises: failed
5.  it was started max_visits times: failed; else it is ready
"""

import zlib
from typing import NamedTuple, Optional, Tuple

DUPLICATE, UNKNOWN_DEPENDENCY, UNKNOWN_TYPE = "!duplicate", "!unknown dependency", "!unknown type"
"""What a Do may spawn beside the names of Specs: things that cannot be."""

WITH_RESULT = ("COMPLETE", "PARTIAL")


class Do(NamedTuple):
    """What one attempt does: first it spawns, then it comes to its end.

    end: "return", "partial", "route", "fail" (which a retry may mend) or "fatal" (which none may). names: the Route's.
    spawns: names of Specs, or what cannot be spawned; the attempt raises there.
    """

    end: str = "return"
    names: Tuple[str, ...] = ()
    spawns: Tuple[str, ...] = ()


class Spec(NamedTuple):
    """A task, its options, and its script: for each visit, for each attempt, a Do; the last ones stand for all further ones.

    when: None, "odd" (true for about half of all inputs), "raises", or a dependency's name (true where it brought a result).
    attempts: of its Retry; 1 is none. spawner: who may spawn it; None for a task of the graph.
    loose: how often it is visited depends on timing, so nothing it does and returns may depend on its visit and feedback.
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


class Expected(NamedTuple):
    """What should come of a run, by task name: the tasks that stand at its end.

    errors: the type of what was raised, or "half" for PARTIAL. skipped: "skipped" or "ruled out". visits: how often each was
    begun, and order: the names at each beginning; both mean something where nothing depends on timing.
    """

    status: str
    statuses: dict
    results: dict
    errors: dict
    skipped: dict
    visits: dict
    order: list


def stamp(name, *seen):
    """A short text that is another one if anything that was seen is."""
    return "{}:{:08x}".format(name, zlib.crc32(repr(seen).encode()))


def does(spec, visit, attempt):
    """The Do of one attempt."""
    attempts = spec.script[min(1 if spec.loose else visit, len(spec.script)) - 1]
    return attempts[min(attempt, len(attempts)) - 1]


def act(spec, inputs, failed, feedback, visit, attempt):
    """(Do, value to return) of one attempt. failed: names; inputs and feedback: values by names."""
    if spec.loose:
        visit, feedback = 1, {}
    value = stamp(spec.name, list(inputs.items()), sorted(failed), sorted(feedback.items()), visit, attempt)
    return does(spec, visit, attempt), value


def passes(when, inputs):
    """What a task's `when` says to its inputs."""
    if when == "raises":
        raise LookupError("when cannot say")
    return int(stamp("when", list(inputs.items()))[-1], 16) % 2 == 1 if when == "odd" else when in inputs


class _Instance:
    """A task of the run. fate: None (not decided), "ready", "skipped" or "ruled out"; over: settled, or will not be."""

    def __init__(self, spec):
        self.spec = spec
        self.name = spec.name
        self.visits = 0
        self.feedback = {}  # for its next visit
        self.reset()

    def reset(self):
        self.status = "WAITING"
        self.fate = self.result = self.error = self.route = None

    def settle(self, status, result=None, error=None, route=None):
        self.status, self.result, self.error, self.route = status, result, error, route

    @property
    def over(self):
        return self.status != "WAITING" or self.fate in ("skipped", "ruled out")


class _Failure(Exception):
    """An attempt raised; the argument is the type of its exception."""


class _Run:
    def __init__(self, specs):
        self.specs = {spec.name: spec for spec in specs}
        self.tasks = {spec.name: _Instance(spec) for spec in specs if spec.spawner is None}  # in the order of adding
        self.order = []

    # Who is who

    def dependents(self, name):
        return [task.name for task in self.tasks.values() if name in task.spec.depends_on]

    def descendants(self, names):
        """Those names, and all that depends on them, near or far."""
        found = list(names)
        for name in found:  # grows while it is walked
            found += [dependent for dependent in self.dependents(name) if dependent not in found]
        return found

    def ancestors(self, name):
        """The name, and all that it depends on, near or far."""
        return [other for other in self.tasks if name in self.descendants([other])]

    # Fates

    def fate(self, task):
        """Ready, skipped or ruled out; None while a dependency is not over. One that is gone counts as ruled out."""
        dependencies = [self.tasks[name] for name in task.spec.depends_on if name in self.tasks]
        if not all(dependency.over for dependency in dependencies):
            return None
        if any(dependency.route is not None and task.name not in dependency.route for dependency in dependencies):
            return "ruled out"
        fruitless = [
            dependency for dependency in dependencies if dependency.status == "FAILED" or dependency.fate == "skipped"
        ]
        if fruitless and not task.spec.allow_failure:
            return "skipped"
        return "ready" if not task.spec.depends_on or self.inputs(task) or fruitless else "ruled out"

    def inputs(self, task):
        before = [self.tasks[name] for name in task.spec.depends_on if name in self.tasks]
        return {dependency.name: dependency.result for dependency in before if dependency.status in WITH_RESULT}

    def failed(self, task):
        before = [self.tasks[name] for name in task.spec.depends_on if name in self.tasks]
        return [one.name for one in before if one.status == "FAILED" or one.fate == "skipped"]

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
        """One visit, if it is to be: as many attempts as its Retry allows, and what comes of the last."""
        try:
            if task.spec.when is not None and not passes(task.spec.when, self.inputs(task)):
                task.fate = "ruled out"
                return None
        except LookupError:
            return task.settle("FAILED", error="LookupError")
        if task.visits >= task.spec.max_visits:
            return task.settle("FAILED", error="GraphError")
        task.visits += 1
        feedback, task.feedback = task.feedback, {}
        self.order.append(task.name)
        inputs, failed = self.inputs(task), self.failed(task) if task.spec.allow_failure else []
        for attempt in range(1, task.spec.attempts + 1):
            do, value = act(task.spec, inputs, failed, feedback, task.visits, attempt)
            try:
                for name in do.spawns:
                    self.spawn(name)
                if do.end in ("fail", "fatal"):
                    raise _Failure({"fail": "ValueError", "fatal": "NonRetryableError"}[do.end])
            except _Failure as failure:
                kind = failure.args[0]
                if attempt < task.spec.attempts and kind != "NonRetryableError":
                    self.take_back(task.name)
                    continue
                return task.settle("FAILED", error=kind)
            if do.end == "partial":
                return task.settle("PARTIAL", value, error="half")
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

    def take_back(self, spawner):
        """Remove what a task's attempt has spawned, and what that has."""
        for name in [task.name for task in self.tasks.values() if task.spec.spawner == spawner]:
            self.take_back(name)
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
        for name in self.descendants(names):
            if name in self.tasks:  # else it was spawned by one before it, and is gone
                if self.tasks[name].fate is not None:
                    self.tasks[name].feedback = {}  # it was for the visit that this loop undoes, whether that came or not
                self.tasks[name].reset()
                self.take_back(name)
        for name in set(names) & set(self.tasks):
            self.tasks[name].feedback[task.name] = value

    def stop(self):
        for task in self.tasks.values():
            if not task.over:
                task.fate = "skipped"


def interpret(specs, stop_on_failure=False, choose=lambda ready: ready[0]):
    """What should come of a run of these Specs. choose: which of the ready tasks is executed next."""
    run = _Run(specs)
    while True:
        run.decide()
        if stop_on_failure and any(task.status == "FAILED" for task in run.tasks.values()):
            run.stop()
        ready = [task for task in run.tasks.values() if task.fate == "ready" and task.status == "WAITING"]
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
