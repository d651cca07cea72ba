"""One graph with every feature on threads and on processes of each start method."""

import concurrent.futures
import multiprocessing

import pytest

from asimov_sync import RemoteError

from ..tiers import soak, suite
from .everything import run_everything


@pytest.fixture(scope="module")
def expected():
    """The end of the graph on the calling thread."""
    return run_everything(max_workers=0)


def compare(found, expected):
    """Check that a run ended as another; exceptions may have lost their class on the way."""
    for name, kind in found.pop("exceptions").items():
        assert kind in (expected["exceptions"][name], RemoteError)
    for name, value in found.items():
        assert value == expected[name], name


@suite
def test_on_threads(expected):
    """On threads, the graph ends as on the calling thread."""
    compare(run_everything(), expected)


@suite
@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=soak), "spawn"])
def test_on_processes(expected, method):
    """On processes of each start method, it has the same results, usage and set of events."""
    context = multiprocessing.get_context(method)

    def make_pool():
        return concurrent.futures.ProcessPoolExecutor(2, mp_context=context)

    compare(run_everything(executor=make_pool), expected)
