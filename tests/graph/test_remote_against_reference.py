"""Random runs on a ProcessPoolExecutor, compared with the reference interpreter."""

import hypothesis
import pytest

from asimov_sync import TaskScheduler

from ..tiers import by_tier, suite
from ..waiting import DEADLINE
from .reference import interpret
from .scenarios import Actor, graph_of, raised, scenarios
from .test_remote import make_pool


class RemoteActor:
    """A handler that travels, and plays the scripts of a scenario in another process."""

    def __init__(self, specs):
        self.specs = specs

    def __call__(self, task, context):
        return Actor(self.specs, graph=())(task, context)


@pytest.fixture(scope="module")
def scheduler():
    """A scheduler on two processes, for all examples."""
    with TaskScheduler(executor=make_pool) as new_scheduler:
        yield new_scheduler


def kind(reason):
    return "skipped" if reason.startswith(("its dependency", "the run")) else "ruled out"


@suite
@hypothesis.settings(max_examples=by_tier(25, 1000))
@hypothesis.given(scenarios())
def test_on_processes(scheduler, specs):
    """On processes, every scenario ends as the reference says."""
    # The condition of a spawned task is a function in a function, which does not travel.
    specs = [spec._replace(when=None) if spec.spawner else spec for spec in specs]
    expected = interpret(specs)
    scheduler.handlers["act"] = RemoteActor(specs)
    result = scheduler.run(graph_of(specs), timeout=DEADLINE)
    assert {name: task.status.name for name, task in result.tasks.items()} == expected.statuses
    assert result.results == expected.results
    assert {name: raised(error) for name, error in result.errors.items()} == expected.errors
    assert {name: kind(reason) for name, reason in result.skipped.items()} == expected.skipped
    assert result.status.name == expected.status
    visits = {name: task["visit"] for name, task in result.to_dict()["tasks"].items()}
    fixed = [spec.name for spec in specs if not spec.loose and spec.name in expected.visits]
    assert {name: visits[name] for name in fixed} == {name: expected.visits[name] for name in fixed}
