"""ByHand: a RunState that a test drives step by step, in any order."""

from asimov_sync import GraphError, Task, TaskStatus
from asimov_sync.graph.node import make_node
from asimov_sync.graph.state import RunState

from .reference import DUPLICATE, UNKNOWN_DEPENDENCY, UNKNOWN_TYPE, Seen, act, passes
from .scenarios import graph_of, options, raised

NOW = 0.0


class ByHand:
    """One run of a scenario. `moves()` are the possible next steps; `make(move)` makes one.

    A move is None (start a ready task) or the index of a running task: its condition is evaluated,
    or it spawns the next task, or it ends. What a task does is determined at its start, as it is
    when handlers run in parallel.
    """

    def __init__(self, specs, stop_on_failure=False):
        self.specs = {spec.name: spec for spec in specs}
        self.state = RunState(graph_of(specs).plan(), stop_on_failure)
        self.steps = {}  # the remaining steps of running tasks, by index
        self._outcomes = []
        self._keep()

    def fork(self):
        """Return another run in the same state, which can continue differently."""
        run = _fork_object(self)
        run.state = _fork_object(self.state)
        return run

    def key(self):
        """Return a value that is equal for two runs in the same state."""
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
            self._continue(move)
        for change in self.state.changes:
            self.steps.pop(
                change.task_index, None
            )  # a running task that was undone has no effect any more
        self.state.changes.clear()
        self._keep()

    # All forks share the tasks: before a step, each task is reset to its state in this run.

    def _keep(self):
        self._outcomes = [node.task.snapshot() for node in self.state.nodes]

    def _restore(self):
        for node, (status, result, error) in zip(self.state.nodes, self._outcomes):
            node.task.__dict__.update(status=status, result=result, error=error)

    # Steps

    def _take(self):
        index = self.state.start_next(NOW)
        if index is None:
            return
        if self.state.phases[index].name == "EVALUATING":
            self.steps[index] = ["when"]
        else:
            self._start_attempt(index)

    def _spec(self, index):
        return self.specs[self.state.nodes[index].name]

    def _start_attempt(self, index):
        state, spec = self.state, self._spec(index)
        assert all(state.phases[dependency].is_final for dependency in state.dependencies[index]), (
            "started too early"
        )
        assert state.nodes[index].task.snapshot() == (TaskStatus.EXECUTING, None, None)
        assert state.visits[index] <= spec.max_visits and state.attempts[index] <= spec.attempts
        feedback = state.feedback.get(index, {})
        seen = Seen.of(*state.dependency_outcomes(index))
        do, value = act(spec, seen, feedback, state.visits[index], state.attempts[index])
        self.steps[index] = list(do.spawns) + [(do, value)]

    def _continue(self, index):
        step, rest = self.steps[index][0], self.steps[index][1:]
        self.steps[index] = rest
        if step == "when":
            self._decide(index)
        elif isinstance(step, str):
            try:
                self._spawn(index, step)
            except GraphError:
                self._fail(index, "GraphError")
        else:
            self._end(index, *step)
        if not self.steps.get(index):
            self.steps.pop(index, None)

    def _decide(self, index):
        try:
            seen = Seen.of(*self.state.dependency_outcomes(index))
            met = passes(self._spec(index).when, seen)
        except LookupError:
            self.state.finish(index, TaskStatus.FAILED, None, "LookupError")
            return
        if self.state.apply_condition(index, met):
            self._start_attempt(index)

    def _spawn(self, index, name):
        if name == UNKNOWN_TYPE:
            raise GraphError("the scheduler would say so")
        if name == DUPLICATE:
            name, node_options = self._spec(index).name, {"depends_on": []}
        elif name == UNKNOWN_DEPENDENCY:
            node_options = {"depends_on": ["nowhere"]}
        else:
            node_options = options(self.specs[name])
        settings = dict(
            {"when": None, "allow_failure": False, "retry": None, "timeout": None, "max_visits": 5},
            **node_options,
        )
        self.state.spawn(index, make_node(Task(type="act"), name, namespaces=(), **settings))

    def _fail(self, index, error):
        self.steps.pop(index)
        if error != "NonRetryableError" and self.state.can_retry(index):
            self.state.retry(index, NOW)
        else:
            self.state.finish(index, TaskStatus.FAILED, None, error)

    def _end(self, index, do, value):
        if do.end in ("fail", "fatal"):
            self._fail(index, {"fail": "ValueError", "fatal": "NonRetryableError"}[do.end])
        elif do.end in ("partial", "waits"):
            waits_for = "approval" if do.end == "waits" else None
            self.state.finish(index, TaskStatus.PARTIAL, value, "half", None, waits_for)
        else:
            self.state.finish(
                index, TaskStatus.COMPLETE, value, None, do.names if do.end == "route" else None
            )

    # The end

    def compare(self, expected):
        """Check that the run has ended, with the result of the reference."""
        state = self.state
        assert state.finished and not self.steps
        last = {
            node.name: index
            for index, node in enumerate(state.nodes)
            if state.phases[index].name != "REVOKED"
        }
        outcomes = {name: self._outcomes[index] for name, index in last.items()}
        assert {
            name: outcome.status.name for name, outcome in outcomes.items()
        } == expected.statuses
        results = {
            name: outcome.result for name, outcome in outcomes.items() if outcome.result is not None
        }
        assert results == expected.results
        errors = {
            name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None
        }
        assert {name: raised(error) for name, error in errors.items()} == expected.errors
        phases = {name: state.phases[index].name for name, index in last.items()}
        kinds = {"SKIPPED": "skipped", "NOT_SELECTED": "ruled out"}
        assert {
            name: kinds[phase] for name, phase in phases.items() if phase in kinds
        } == expected.skipped
        assert state.status.name == expected.status
        for name, index in last.items():
            assert self.specs[name].loose or state.visits[index] == expected.visits[name]


def _fork_object(original):
    """Return a copy with lists, dicts and sets of its own; copy.copy takes three times as long."""
    copied = object.__new__(type(original))
    copied.__dict__.update(
        (name, value.copy() if type(value) in (list, dict, set) else value)
        for name, value in vars(original).items()
    )
    return copied


def in_every_order(specs, expected):
    """Run the scenario in every possible order, and compare each end with the expected result."""
    runs = [ByHand(specs)]
    seen = {runs[0].key()}
    while runs:
        run = runs.pop()
        moves = run.moves()
        if not moves:
            run.compare(expected)
        for move in moves:
            fork = run.fork() if move != moves[-1] else run
            fork.make(move)
            key = fork.key()
            if key not in seen:
                seen.add(key)
                runs.append(fork)
