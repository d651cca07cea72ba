"""A RunState driven by hand: a scenario's next steps, one of which is made at a time, in whatever order the caller likes."""

from asimov_sync import GraphError, Task, TaskStatus
from asimov_sync.graph.node import make_node
from asimov_sync.graph.state import RunState

from .reference import DUPLICATE, UNKNOWN_DEPENDENCY, UNKNOWN_TYPE, act, passes
from .scenarios import graph_of, options, raised

NOW = 0.0


class ByHand:
    """One run of a scenario. `moves()` are the steps that could come next, and `make(move)` makes one.

    A move is None (take what is ready) or the place of a task that goes on: its condition is asked, or it spawns the next
    thing, or it ends. What a task does is settled when it is taken, as it is where handlers go on side by side.
    """

    def __init__(self, specs, stop_on_failure=False):
        self.specs = {spec.name: spec for spec in specs}
        self.state = RunState(graph_of(specs).plan(), stop_on_failure)
        self.steps = {}  # by place: what is left to do of the tasks that go on
        self._outcomes = []
        self._keep()

    def fork(self):
        """Another run that has come as far as this one, and may go on differently."""
        run = _twin(self)
        run.state = _twin(self.state)
        return run

    def key(self):
        """The same for two runs that have come to the same point."""
        state = self.state
        return (
            tuple(state.phases),
            tuple(state.visits),
            tuple(state.attempts),
            tuple(state.results),
            tuple(state.ready),
            tuple(sorted(self.steps)),
            repr(state.feedback) if state.feedback else "",
        )

    def moves(self):
        return [None] * bool(self.state.ready or self.state.delayed) + list(self.steps)

    def make(self, move):
        self._restore()
        if move is None:
            self._take()
        else:
            self._go_on(move)
        for change in self.state.changes:
            self.steps.pop(change.task_index, None)  # what goes on in vain is not heard any more
        self.state.changes.clear()
        self._keep()

    # The tasks are shared by all forks: before a step, each is brought to where this run had it.

    def _keep(self):
        self._outcomes = [node.task.snapshot() for node in self.state.nodes]

    def _restore(self):
        for node, (status, result, error) in zip(self.state.nodes, self._outcomes):
            node.task.__dict__.update(status=status, result=result, error=error)

    # Steps

    def _take(self):
        place = self.state.start_next(NOW)
        if place is None:
            return
        if self.state.phases[place].name == "EVALUATING":
            self.steps[place] = ["when"]
        else:
            self._begin(place)

    def _spec(self, place):
        return self.specs[self.state.nodes[place].name]

    def _begin(self, place):
        state, spec = self.state, self._spec(place)
        assert all(state.phases[dependency].is_final for dependency in state.dependencies[place]), "started too early"
        assert state.nodes[place].task.snapshot() == (TaskStatus.EXECUTING, None, None)
        assert state.visits[place] <= spec.max_visits and state.attempts[place] <= spec.attempts
        failed = state.failed_dependencies(place) if spec.allow_failure else []
        feedback = state.feedback.get(place, {})
        do, value = act(spec, state.inputs(place), failed, feedback, state.visits[place], state.attempts[place])
        self.steps[place] = list(do.spawns) + [(do, value)]

    def _go_on(self, place):
        step, rest = self.steps[place][0], self.steps[place][1:]
        self.steps[place] = rest
        if step == "when":
            self._decide(place)
        elif isinstance(step, str):
            try:
                self._spawn(place, step)
            except GraphError:
                self._fail(place, "GraphError")
        else:
            self._end(place, *step)
        if not self.steps.get(place):
            self.steps.pop(place, None)

    def _decide(self, place):
        try:
            met = passes(self._spec(place).when, self.state.inputs(place))
        except LookupError:
            self.state.finish(place, TaskStatus.FAILED, None, "LookupError")
            return
        if self.state.apply_condition(place, met):
            self._begin(place)

    def _spawn(self, place, name):
        if name == UNKNOWN_TYPE:
            raise GraphError("the scheduler would say so")
        if name == DUPLICATE:
            name, given = self._spec(place).name, {"depends_on": []}
        elif name == UNKNOWN_DEPENDENCY:
            given = {"depends_on": ["nowhere"]}
        else:
            given = options(self.specs[name])
        settings = dict({"when": None, "allow_failure": False, "retry": None, "timeout": None, "max_visits": 5}, **given)
        self.state.spawn(place, make_node(Task(type="act"), name, namespaces=(), **settings))

    def _fail(self, place, error):
        self.steps.pop(place)
        if error != "NonRetryableError" and self.state.can_retry(place):
            self.state.retry(place, NOW)
        else:
            self.state.finish(place, TaskStatus.FAILED, None, error)

    def _end(self, place, do, value):
        if do.end in ("fail", "fatal"):
            self._fail(place, {"fail": "ValueError", "fatal": "NonRetryableError"}[do.end])
        elif do.end == "partial":
            self.state.finish(place, TaskStatus.PARTIAL, value, "half")
        else:
            self.state.finish(place, TaskStatus.COMPLETE, value, None, do.names if do.end == "route" else None)

    # The end

    def compare(self, expected):
        """The run is over, and came to what the reference says."""
        state = self.state
        assert state.finished and not self.steps
        last = {node.name: place for place, node in enumerate(state.nodes) if state.phases[place].name != "REVOKED"}
        outcomes = {name: self._outcomes[place] for name, place in last.items()}
        assert {name: outcome.status.name for name, outcome in outcomes.items()} == expected.statuses
        brought = {name: outcome.result for name, outcome in outcomes.items() if outcome.result is not None}
        assert brought == expected.results
        errors = {name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None}
        assert {name: raised(error) for name, error in errors.items()} == expected.errors
        phases = {name: state.phases[place].name for name, place in last.items()}
        kinds = {"SKIPPED": "skipped", "NOT_SELECTED": "ruled out"}
        assert {name: kinds[phase] for name, phase in phases.items() if phase in kinds} == expected.skipped
        assert state.status.name == expected.status
        for name, place in last.items():
            assert self.specs[name].loose or state.visits[place] == expected.visits[name]


def _twin(thing):
    """A copy whose lists, dicts and sets are its own; copy.copy takes three times as long."""
    made = object.__new__(type(thing))
    made.__dict__.update(
        (name, value.copy() if type(value) in (list, dict, set) else value) for name, value in vars(thing).items()
    )
    return made


def in_every_order(specs, expected):
    """Go every way that a run of the scenario can go, and compare each end with what is expected."""
    runs = [ByHand(specs)]
    seen = {runs[0].key()}
    while runs:
        run = runs.pop()
        moves = run.moves()
        if not moves:
            run.compare(expected)
        for move in moves:
            twin = run.fork() if move != moves[-1] else run
            twin.make(move)
            key = twin.key()
            if key not in seen:
                seen.add(key)
                runs.append(twin)
