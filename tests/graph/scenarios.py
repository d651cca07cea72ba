"""Random scenarios for the reference and the scheduler, and their translation into graphs.

A scenario alone does not determine the end of a run if loops have siblings: a task that is neither
upstream nor downstream of a looping task, but downstream of the loop's target, is visited as often
as it happened to start before the loop reset it. The strategy avoids only outcomes that depend on
that:

- such a task is `loose`: its script, result and allowed visits depend neither on its visit nor on
  feedback, and its number of visits is not compared
- a loop that would reset another looping task which is neither upstream nor downstream is left out,
  because the two would race
- a spawned task that loops depends on its spawner, and so on, so that it starts after the attempt
- the dependencies of a spawned task exist whenever its spawner does: tasks of the graph, its
  spawner, and other tasks of the same spawner
- only one task spawns each name, and a Route may name only those that its own task spawned
- a spawned task that loops has visits to spare, since its own loop may revoke it, and the next one
  starts at visit 1
"""

from typing import NamedTuple

from hypothesis import strategies
from tenacity import wait_none

from asimov_sync import NonRetryableError, Partial, Retry, Route, Task, TaskGraph

from ..waiting import DEADLINE
from .reference import DUPLICATE, UNKNOWN_DEPENDENCY, UNKNOWN_TYPE, Do, Seen, Spec, act, passes

WHENS = ["odd"] * 4 + ["odd context"] * 4
ANY = 50
"""More visits than any task of a scenario is given."""


class Relations:
    """The order of tasks in a scenario, as if everything that may be spawned existed."""

    def __init__(self, specs):
        self.specs = {spec.name: spec for spec in specs}

    def behind(self, names, spawned):
        """Return the names and all tasks downstream; with `spawned`, also what these spawn."""
        found = list(names)
        for name in found:  # grows during the walk
            for spec in self.specs.values():
                if (
                    name in spec.depends_on or (spawned and spec.spawner == name)
                ) and spec.name not in found:
                    found.append(spec.name)
        return found

    def before(self, name):
        """Return the name and all tasks upstream of it."""
        return [other for other in self.specs if name in self.behind([other], False)]

    def ordered(self, one, other):
        """Return whether one never executes while the other does."""
        return other in self.behind([one], False) or one in self.behind([other], False)

    def loops(self, spec):
        """Return the names in all of its Routes that go back."""
        before = self.before(spec.name)
        return {
            name
            for attempts in spec.script
            for do in attempts
            if do.end == "route"
            for name in do.names
            if name in before
        }

    def undone(self, spec):
        """Return all tasks that its loops may reset or revoke."""
        return self.behind(sorted(self.loops(spec)), True)

    def revoked(self, name, undone):
        """Return whether one of the spawners of the name, transitively, is undone."""
        spawner = self.specs[name].spawner
        return spawner is not None and (spawner in undone or self.revoked(spawner, undone))

    def waits_for_its_spawners(self, name):
        spec = self.specs[name]
        return spec.spawner is None or (
            spec.spawner in spec.depends_on and self.waits_for_its_spawners(spec.spawner)
        )


def determined(specs):
    """Return the scenario without loops that race, and with its loose tasks marked."""
    relations = Relations(specs)
    loopers = []
    for spec in specs:
        if not relations.loops(spec):
            continue
        undone = relations.undone(spec)
        races = [
            other
            for other in loopers
            if (other in undone or spec.name in relations.undone(relations.specs[other]))
            and not relations.ordered(spec.name, other)
        ]
        if races or not relations.waits_for_its_spawners(spec.name):
            relations.specs[spec.name] = spec._replace(script=_without_loops(spec, relations))
        else:
            loopers.append(spec.name)
    for spec in specs:
        for looper in loopers:
            undone = relations.undone(relations.specs[looper])
            if (
                spec.name in undone
                and not relations.ordered(spec.name, looper)
                and not relations.revoked(spec.name, undone)
            ):
                first = relations.specs[spec.name].script[:1]
                relations.specs[spec.name] = spec._replace(loose=True, max_visits=ANY, script=first)
        if spec.name in loopers and spec.spawner is not None:
            relations.specs[spec.name] = spec._replace(max_visits=ANY)
    return [relations.specs[spec.name] for spec in specs]


def _without_loops(spec, relations):
    back = relations.before(spec.name)
    return tuple(
        tuple(
            Do("return", (), do.spawns) if do.end == "route" and set(do.names) & set(back) else do
            for do in attempts
        )
        for attempts in spec.script
    )


@strategies.composite
def scenarios(draw):
    """Draw up to ten Specs in the order of adding, which need not be an order of execution.

    Up to three of them may be spawned. Simpler choices come first everywhere, for shrinking.
    """

    def number(least, greatest):
        return draw(strategies.integers(least, greatest))

    def often(percent):
        return number(0, 99) >= 100 - percent

    def choice(values):
        return values[number(0, len(values) - 1)]

    def some(names, least, most):
        left, chosen = list(names), []
        for _ in range(number(min(least, len(left)), min(most, len(left)))):
            chosen.append(left.pop(number(0, len(left) - 1)))
        return tuple(chosen)

    names = [f"t{index}" for index in range(number(3, 7) if often(80) else number(1, 3))]
    plain, spawners = {}, {}
    for index, name in enumerate(names):
        before = names[:index]
        plain[name] = some(before[-2:] if often(60) else before, 1 if often(75) else 0, 3)
    for index in range(number(0, 3) if often(60) else 0):
        name, spawner = f"s{index}", choice(list(plain) + 2 * list(spawners))
        siblings = [other for other in spawners if spawners[other] == spawner]
        depends_on = some(names + siblings, 0, 2) if often(50) else ()
        plain[name] = ((spawner,) if often(60) else ()) + tuple(
            one for one in depends_on if one != spawner
        )
        spawners[name] = spawner
    bare = Relations(
        [Spec(name, depends_on, spawner=spawners.get(name)) for name, depends_on in plain.items()]
    )

    def script(name, calm):
        behind = [
            other for other in plain if name in plain[other] and spawners.get(other) in (None, name)
        ]
        back = bare.before(name)
        mine = [other for other in spawners if spawners[other] == name]
        ends = ["return"] * (24 if calm else 4) + ["partial", "fail", "fail", "fatal"]
        ends += ["waits"] * (2 if behind else 0)
        ends += ["route"] * 4 if behind else []
        ends += ["loop"] * (8 if len(back) > 1 else 2)

        def do():
            spawned = tuple(other for other in mine if not often(15))
            if often(3):
                spawned += (choice([DUPLICATE, UNKNOWN_DEPENDENCY, UNKNOWN_TYPE]),)
            if often(3):  # an unknown name, or any name, which is valid only by chance
                return Do(
                    "route",
                    some(behind, 0, 2) + ("nowhere",) if often(50) else (choice(names),),
                    spawned,
                )
            end = choice(ends)
            if end == "route":
                return Do("route", some(behind, 0 if often(20) else 1, 3), spawned)
            if end == "loop":
                near = [one for one in back if one != name]
                chosen = some(near, 1, 2) if near and often(80) else (name,)
                return Do("route", chosen + (some(behind, 0, 1) if often(15) else ()), spawned)
            return Do(end, (), spawned)

        # Most loops end by themselves, since the Do of the last visit is repeated.
        visits = [tuple(do() for _ in range(number(1, 3))) for _ in range(number(1, 3))]
        return tuple(visits if often(15) else visits + [(Do("return", (), visits[-1][-1].spawns),)])

    specs = []
    for name, depends_on in plain.items():
        when = choice(WHENS + list(depends_on) + ["raises"]) if often(15) else None
        attempts, max_visits = choice([1, 1, 1, 2, 3]), choice([5, 5, 3, 2, 1])
        calm = not often(50)
        specs.append(
            Spec(
                name,
                depends_on,
                often(25),
                when,
                attempts,
                max_visits,
                script(name, calm),
                spawners.get(name),
                always=often(10),
            )
        )
    if often(25):
        specs = list(some(specs, len(specs), len(specs)))
    return determined(specs)


# For the scheduler


def raised(error):
    """Return the type name at the start of a task's error, or the error of a Partial."""
    return error.split(":")[0]


def see(context):
    """Return what a TaskContext shows of the dependencies."""
    return Seen.of(context.inputs, context.partial, context.failed, context.skipped)


class Entry(NamedTuple):
    """The input of an attempt.

    unready: dependencies that were not final, or whose results were not those in inputs.
    ended: whether this was logged at its end, and not at its start.
    value: what it returned; at its end.
    cancelled: whether its token was cancelled; at its end.
    """

    name: str
    task_id: object
    visit: int
    attempt: int
    inputs: dict
    feedback: dict
    unready: list
    ended: bool = False
    value: object = None
    cancelled: bool = False


def options(spec, pause=lambda: None):
    """Return the arguments of add() and spawn() that are not defaults. pause: for the condition."""

    def met(inputs):
        pause()
        return passes(spec.when, Seen(inputs, [], [], []))

    def met_in_context(inputs, context):
        pause()
        assert context.inputs == inputs
        return passes(spec.when, see(context))

    given = {"depends_on": list(spec.depends_on)}
    if spec.always:
        given.update(always=True, timeout=DEADLINE)
    if spec.allow_failure:
        given["allow_failure"] = True
    if spec.when is not None:
        given["when"] = met_in_context if spec.when == "odd context" else met
    if spec.attempts > 1:
        given["retry"] = Retry(attempts=spec.attempts, wait=wait_none(), on=Exception)
    if spec.max_visits != 5:
        given["max_visits"] = spec.max_visits
    return given


def graph_of(specs, pause=lambda: None):
    """Return the graph of a scenario, without what may be spawned."""
    graph = TaskGraph()
    for spec in specs:
        if spec.spawner is None:
            graph.add(Task(type="act", objective=spec.name), name=spec.name, **options(spec, pause))
    return graph


class Actor:
    """The handler of a scenario's tasks: plays their scripts, and logs what it received.

    graph: the graph that runs.
    pause: called where an executor may switch to another handler.
    """

    def __init__(self, specs, graph, pause=lambda: None):
        self.specs = {spec.name: spec for spec in specs}
        self.graph = graph
        self.pause = pause
        self.log = []  # Entries; appended to from every thread

    def __call__(self, task, context):
        spec = self.specs[context.name]
        entry = self._look(spec, task, context)
        self.log.append(entry)
        self.pause()
        do, value = act(spec, see(context), context.feedback, context.visit, context.attempt)
        try:
            for name in do.spawns:
                self._spawn(name, context)
                self.pause()
        finally:
            # Logged before a dependent task can see the result.
            self.log.append(
                entry._replace(ended=True, value=value, cancelled=context.cancellation.cancelled)
            )
        if do.end == "fail":
            raise ValueError(f"{spec.name} fails")
        if do.end == "fatal":
            raise NonRetryableError(f"{spec.name} fails for good")
        if do.end == "partial":
            return Partial(value, "half")
        if do.end == "waits":
            return Partial(value, "half", waits_for="approval")
        return Route(*do.names, result=value) if do.end == "route" else value

    def _look(self, spec, task, context):
        unready = []
        # A loose task may be undone before this check; spawned tasks are not in the graph.
        for name in [] if spec.loose or spec.spawner else spec.depends_on:
            if name in self.graph:
                status, result, _ = self.graph[name].snapshot()
                brought = [result] if status.name in ("COMPLETE", "PARTIAL") else []
                given = [context.inputs[name]] if name in context.inputs else []
                if status.name == "EXECUTING" or brought != given:
                    unready.append((name, status.name))
        return Entry(
            context.name,
            task.id,
            context.visit,
            context.attempt,
            dict(context.inputs),
            dict(context.feedback),
            unready,
        )

    def _spawn(self, name, context):
        if name == DUPLICATE:
            context.spawn(Task(type="act"), name=context.name)
        elif name == UNKNOWN_DEPENDENCY:
            context.spawn(Task(type="act"), name="unknown", depends_on=["nowhere"])
        elif name == UNKNOWN_TYPE:
            context.spawn(Task(type="nobody's"), name="unknown")
        else:
            spec = self.specs[name]
            context.spawn(Task(type="act", objective=name), name=name, **options(spec, self.pause))
