"""Random runs that are interrupted again and again end as the reference interpreter says."""

import itertools

import hypothesis
import pytest
from hypothesis import strategies

from asimov_sync import MemoryCache, RunFinished, RunStore, SQLiteCache, TaskScheduler

from ..graph.reference import interpret
from ..graph.scenarios import Actor, graph_of, raised, scenarios
from ..graph.test_against_reference import kind
from ..tiers import by_tier, suite
from ..waiting import DEADLINE


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def cache(request, tmp_path_factory):
    """A cache for all examples."""
    if request.param == "memory":
        cache = MemoryCache()
    else:
        path = tmp_path_factory.mktemp("runs") / "runs.db"
        cache = SQLiteCache(path, synchronous="normal")
    with cache:
        yield cache


numbers = itertools.count()


def storable(specs):
    """Return the scenario without options that a spawned task cannot have in a durable run."""
    return [
        spec if spec.spawner is None else spec._replace(when=None, attempts=1) for spec in specs
    ]


def interrupted_after(events, count):
    """Read this number of events, and close the stream. Return the result if the run ended."""
    for number, event in enumerate(events, 1):
        if isinstance(event, RunFinished):
            return event.result
        if number == count:
            events.close()
            return None
    raise AssertionError("the events ended without RunFinished")


def compare(specs, result):
    """Check the result of a run against the reference."""
    expected = interpret(specs)
    assert {name: task.status.name for name, task in result.tasks.items()} == expected.statuses
    assert result.results == expected.results
    assert {name: raised(error) for name, error in result.errors.items()} == expected.errors
    assert {name: kind(reason) for name, reason in result.skipped.items()} == expected.skipped
    assert result.status.name == expected.status


@suite
@pytest.mark.parametrize("workers", [0, 4], ids=["calling thread", "threads"])
@hypothesis.settings(max_examples=by_tier(15, soak=1000))
@hypothesis.given(
    scenarios().map(storable), strategies.lists(strategies.integers(1, 20), max_size=5)
)
def test_interrupted_after_each_number_of_events(cache, workers, specs, counts):
    """A stream is closed after some events, several times; the last drive ends the run."""
    store, run_id = RunStore(cache), f"run-{next(numbers)}"
    result = None
    with TaskScheduler(max_workers=workers, runs=store) as scheduler:
        for count in counts + [None]:
            graph = graph_of(specs)
            scheduler.handlers["act"] = Actor(specs, graph)
            result = interrupted_after(
                scheduler.stream(graph, run_id=run_id, timeout=DEADLINE), count
            )
            if result is not None:
                break
        compare(specs, result)
        compare(specs, scheduler.run(graph_of(specs), run_id=run_id))
        compare(specs, store.result(run_id))
