"""Random scenarios for the reference interpreter and the scheduler, and the translation of one into a graph and a handler.

What a run comes to is not determined by its scenario alone where loops have siblings: a task that is neither before nor behind
a looping task, but behind a target of its loop, is visited as often as it happened to be started before the loop undid it. The
strategy keeps away from outcomes that would depend on that, and from nothing else:

- such a task is `loose`: its script, result and number of visits allowed depend neither on its visit nor on feedback; how
  often it was visited is not compared
- a loop that would undo a looping task which is neither before nor behind it is left out, as two such would race
- a spawned task that loops depends on its spawner, and that on its own, so that it starts after the attempt is over
- what a spawned task depends on is there whenever its spawner is: tasks of the graph, its spawner, what that has spawned
- each name is spawned by one task alone, and of what may be spawned a Route names only what its own task spawns
- a spawned task that loops has visits to spare, since its own loop may take it back, and a new one begins at visit 1
"""

from typing import NamedTuple

from hypothesis import strategies
from tenacity import wait_none

from asimov_sync import NonRetryableError, Partial, Retry, Route, Task, TaskGraph

from .reference import DUPLICATE, UNKNOWN_DEPENDENCY, UNKNOWN_TYPE, Do, Spec, act, passes

ANY = 50
"""More visits than any task of a scenario is given."""


class Relations:
    """Who is before whom in a scenario in which everything is there that may be spawned."""

    def __init__(self, specs):
        self.specs = {spec.name: spec for spec in specs}

    def behind(self, names, spawned):
        """Those names and all that depends on them; where `spawned`, also all that these spawn."""
        found = list(names)
        for name in found:  # grows while it is walked
            for spec in self.specs.values():
                if (name in spec.depends_on or (spawned and spec.spawner == name)) and spec.name not in found:
                    found.append(spec.name)
        return found

    def before(self, name):
        """The name and all that it depends on."""
        return [other for other in self.specs if name in self.behind([other], False)]

    def ordered(self, one, other):
        """Whether one never executes while the other does."""
        return other in self.behind([one], False) or one in self.behind([other], False)

    def loops(self, spec):
        """The names in all of its Routes that go back."""
        before = self.before(spec.name)
        return {
            name for attempts in spec.script for do in attempts if do.end == "route" for name in do.names if name in before
        }

    def undone(self, spec):
        """All that its loops may undo or take back."""
        return self.behind(sorted(self.loops(spec)), True)

    def taken_back(self, name, undone):
        """Whether one that the name was spawned by, near or far, is undone."""
        spawner = self.specs[name].spawner
        return spawner is not None and (spawner in undone or self.taken_back(spawner, undone))

    def waits_for_its_spawners(self, name):
        spec = self.specs[name]
        return spec.spawner is None or (spec.spawner in spec.depends_on and self.waits_for_its_spawners(spec.spawner))


def determined(specs):
    """The scenario without the loops that race, and with its loose tasks marked as such."""
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
                and not relations.taken_back(spec.name, undone)
            ):
                first = relations.specs[spec.name].script[:1]
                relations.specs[spec.name] = spec._replace(loose=True, max_visits=ANY, script=first)
        if spec.name in loopers and spec.spawner is not None:
            relations.specs[spec.name] = spec._replace(max_visits=ANY)
    return [relations.specs[spec.name] for spec in specs]


def _without_loops(spec, relations):
    back = relations.before(spec.name)
    return tuple(
        tuple(Do("return", (), do.spawns) if do.end == "route" and set(do.names) & set(back) else do for do in attempts)
        for attempts in spec.script
    )


@strategies.composite
def scenarios(draw):
    """Up to ten Specs in the order of adding, which is not always an order in which they could run.

    Up to three of them may be spawned. What is simpler comes first everywhere, for shrinking.
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

    names = ["t{}".format(place) for place in range(number(3, 7) if often(80) else number(1, 3))]
    plain, spawners = {}, {}
    for place, name in enumerate(names):
        before = names[:place]
        plain[name] = some(before[-2:] if often(60) else before, 1 if often(75) else 0, 3)
    for place in range(number(0, 3) if often(60) else 0):
        name, spawner = "s{}".format(place), choice(list(plain) + 2 * list(spawners))
        siblings = [other for other in spawners if spawners[other] == spawner]
        depends_on = some(names + siblings, 0, 2) if often(50) else ()
        plain[name] = ((spawner,) if often(60) else ()) + tuple(one for one in depends_on if one != spawner)
        spawners[name] = spawner
    bare = Relations([Spec(name, depends_on, spawner=spawners.get(name)) for name, depends_on in plain.items()])

    def script(name, calm):
        behind = [other for other in plain if name in plain[other] and spawners.get(other) in (None, name)]
        back = bare.before(name)
        mine = [other for other in spawners if spawners[other] == name]
        ends = ["return"] * (24 if calm else 4) + ["partial", "fail", "fail", "fatal"]
        ends += ["route"] * 4 if behind else []
        ends += ["loop"] * (8 if len(back) > 1 else 2)

        def do():
            spawned = tuple(other for other in mine if not often(15))
            if often(3):
                spawned += (choice([DUPLICATE, UNKNOWN_DEPENDENCY, UNKNOWN_TYPE]),)
            if often(3):  # a name that nobody has, alone or not, or one that is right only where it happens to be
                return Do("route", some(behind, 0, 2) + ("nowhere",) if often(50) else (choice(names),), spawned)
            end = choice(ends)
            if end == "route":
                return Do("route", some(behind, 0 if often(20) else 1, 3), spawned)
            if end == "loop":
                near = [one for one in back if one != name]
                chosen = some(near, 1, 2) if near and often(80) else (name,)
                return Do("route", chosen + (some(behind, 0, 1) if often(15) else ()), spawned)
            return Do(end, (), spawned)

        # Most loops end of themselves, since the last visit's Do is that of all further ones.
        visits = [tuple(do() for _ in range(number(1, 3))) for _ in range(number(1, 3))]
        return tuple(visits if often(15) else visits + [(Do("return", (), visits[-1][-1].spawns),)])

    specs = []
    for name, depends_on in plain.items():
        when = choice(["odd"] * 6 + list(depends_on) + ["raises"]) if often(12) else None
        attempts, max_visits = choice([1, 1, 1, 2, 3]), choice([5, 5, 3, 2, 1])
        calm = not often(50)
        specs.append(Spec(name, depends_on, often(25), when, attempts, max_visits, script(name, calm), spawners.get(name)))
    if often(25):
        specs = list(some(specs, len(specs), len(specs)))
    return determined(specs)


# For the scheduler


def raised(error):
    """What the reference says of a task's error: the type of what was raised, or the error of a Partial."""
    return error.split(":")[0]


class Entry(NamedTuple):
    """What an attempt was given at its start; or, if `ended`, the same at its end, the value that came of it, and
    whether its cancellation had been cancelled.

    unready: dependencies that were not settled, or whose results were not those in inputs.
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
    """The options of add() and spawn(); those that are the default are not given. pause: called in the condition."""

    def met(inputs):
        pause()
        return passes(spec.when, inputs)

    given = {"depends_on": list(spec.depends_on)}
    if spec.allow_failure:
        given["allow_failure"] = True
    if spec.when is not None:
        given["when"] = met
    if spec.attempts > 1:
        given["retry"] = Retry(attempts=spec.attempts, wait=wait_none())
    if spec.max_visits != 5:
        given["max_visits"] = spec.max_visits
    return given


def graph_of(specs, pause=lambda: None):
    """The graph of a scenario; what may be spawned is not in it."""
    graph = TaskGraph()
    for spec in specs:
        if spec.spawner is None:
            graph.add(Task(type="act", objective=spec.name), name=spec.name, **options(spec, pause))
    return graph


class Actor:
    """The handler of a scenario's tasks: it plays their scripts, and keeps a log of what it was given.

    graph: the one that runs. pause: called where another handler may go on, for an executor that lets them take turns.
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
        do, value = act(spec, context.inputs, list(context.failed), context.feedback, context.visit, context.attempt)
        try:
            for name in do.spawns:
                self._spawn(name, context)
                self.pause()
        finally:
            # In the log before it can be seen by any task that depends on it.
            self.log.append(entry._replace(ended=True, value=value, cancelled=context.cancellation.cancelled))
        if do.end == "fail":
            raise ValueError("{} fails".format(spec.name))
        if do.end == "fatal":
            raise NonRetryableError("{} fails for good".format(spec.name))
        if do.end == "partial":
            return Partial(value, "half")
        return Route(*do.names, result=value) if do.end == "route" else value

    def _look(self, spec, task, context):
        unready = []
        # A visit that may be undone while it goes on may be undone before this look. What was spawned is not in the graph.
        for name in [] if spec.loose or spec.spawner else spec.depends_on:
            if name in self.graph:
                status, result, _ = self.graph[name].snapshot()
                brought = [result] if status.name in ("COMPLETE", "PARTIAL") else []
                given = [context.inputs[name]] if name in context.inputs else []
                if status.name == "EXECUTING" or brought != given:
                    unready.append((name, status.name))
        return Entry(
            context.name, task.id, context.visit, context.attempt, dict(context.inputs), dict(context.feedback), unready
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
