"""Tests against engines that are installed by `tox -e engines` only."""

import importlib
import importlib.util
import sys

import pytest

from ..redis_server import RedisServer, require_server

if importlib.util.find_spec("loky") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """The module `queue_flows`, with a Redis server of its own, in a fresh copy."""
    folder = tmp_path_factory.mktemp("queue")
    patch = pytest.MonkeyPatch()
    with RedisServer(require_server(), str(folder)) as server:
        patch.setenv("ASIMOV_TEST_QUEUE_SERVER", server.url)
        patch.setenv("ASIMOV_TEST_QUEUE_FOLDER", str(folder))
        yield importlib.import_module("tests.engines.queue_flows")
    sys.modules.pop("tests.engines.queue_flows")
    patch.undo()


@pytest.fixture(scope="module")
def worker_log(tmp_path_factory):
    """The file of the output of the workers, which pytest shows if a test fails."""
    log = tmp_path_factory.mktemp("worker") / "log"
    yield log
    if log.exists():
        sys.stdout.write(log.read_text())


@pytest.fixture
def worker(start_worker):
    """A worker that is running, the same one for all tests unless one has killed it.

    Each module has a fixture start_worker, the function that starts one.
    """
    if not getattr(start_worker, "current", None):
        start_worker.current = start_worker()
    return start_worker.current
