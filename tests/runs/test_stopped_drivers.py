"""Drivers that are stopped for longer than their lease, while another one takes over their run."""

import functools
import os
import signal
import threading
import time

import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    Cancelled,
    LeaseLost,
    RedisCache,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.testing import Fault, ModelServer

from ..cache.resp_proxy import RespProxy
from ..tiers import by_tier, soak, suite
from ..waiting import DEADLINE, wait_for
from .drivers import RUN_ID, Driver, interpose

pytestmark = suite

LEASE = 0.25

CHAIN = 5

CALLS = ("claim", "commit", "get")
"""The calls to the store at which a driver is stopped."""


def build():
    """Return a graph of a task that talks to a model, beside a chain of tasks."""
    graph = TaskGraph()
    graph.add(Task(type="talk"), name="talk")
    for number in range(CHAIN):
        before = [f"link-{number - 1}"] if number else []
        graph.add(Task(type="work"), name=f"link-{number}", depends_on=before)
    return graph


def answer(body):
    """Answer the second driver. The reply to the first one stops in the middle."""
    return Fault("one two three", stall=4) if body["model"] == "first" else "one two three"


@pytest.fixture
def server():
    """The server of the model."""
    with ModelServer(answer) as server:
        yield server


def make_handlers(driver, url, cut=()):
    """Return the handlers. cut: receives the names of the tasks whose stream was cut."""
    client = AnthropicInferenceClient(driver, api_key="key", api_url=url, max_retries=0)
    talking = threading.Event()

    def talk(task, context):
        try:
            with client.stream("Talk.") as stream:
                pieces = [next(stream.text_stream)]
                talking.set()
                pieces += stream.text_stream
                return [driver, "".join(pieces)]
        except Cancelled:
            cut.append(context.name)
            raise

    def work(task, context):
        while not talking.is_set():
            context.cancellation.wait(0.005)
            context.cancellation.raise_if_cancelled()
        return [driver, context.step("step", str, driver)]

    return {"talk": talk, "work": work}


def stop_at(number, after):
    """Return an `on_call` that stops the process before or after its n-th call to the store.

    Calls are made one at a time: a process that is stopped inside a transaction of SQLite would
    block other writers.
    """
    count, lock = 0, threading.RLock()

    def stop():
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.02)  # this thread may proceed for a moment before all are stopped

    def on_call(method, call):
        nonlocal count
        if method not in CALLS:
            return call()
        with lock:
            count += 1
            is_chosen = count == number
            if is_chosen and not after:
                stop()
            reply = call()
            if is_chosen and after:
                stop()
        return reply

    return on_call


def drive_first(open_cache, url, on_call, folder):
    """Drive the run, and stop on the way. Writes the error and the cut streams to a file."""
    cache, cut = open_cache(), []
    if on_call is not None:
        interpose(cache, on_call)
    store = RunStore(cache, lease=LEASE)
    with TaskScheduler(make_handlers("first", url, cut), max_workers=3, runs=store) as scheduler:
        try:
            restored = scheduler.submit(build(), run_id=RUN_ID).result(DEADLINE).restored
            end = ["restored" if restored else "driven", ""]
        except LeaseLost as error:
            end = ["LeaseLost", str(error)]
    (folder / "ended").write_text("")
    wait_for((folder / "leave").exists)  # the end of the process would close its stream as well
    return [*end, cut]


def is_stopped(driver):
    """Return whether the process is stopped."""
    options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, driver.pid, options) is not None


def check_takeover(driver, store, server, folder, deliver=None):
    """Take a run over from a stopped driver, end it, and continue the driver.

    deliver: called before the driver continues.

    Returns how the first driver ended, and whether its stream was open.
    """
    wait_for(lambda: is_stopped(driver), "the stop of the driver")

    def is_free():
        records = store.list()
        return not records or records[0].status is not RunStatus.RUNNING

    wait_for(is_free, "the end of the lease")
    assert store.ready() == [] or store.ready()[0].status is RunStatus.ORPHANED
    assert len(store.ready()) == len(store.list())
    handlers = make_handlers("second", server.url)
    with TaskScheduler(handlers, max_workers=2, runs=store) as scheduler:
        result = scheduler.run(build(), run_id=RUN_ID)
    assert result["talk"] == ["second", "one two three"]
    events, tasks = list(store.events(RUN_ID)), store.get(RUN_ID).tasks
    updated = store.get(RUN_ID).updated
    if deliver is not None:
        deliver()
    driver.kill(signal.SIGCONT)
    wait_for(lambda: (folder / "ended").exists() or driver.has_ended, "the end of the drive")
    for request in server.requests:
        if request.body is not None and request.body["model"] == "first":
            wait_for(request.finished.is_set)
            assert request.disconnected.is_set(), "the stream was not closed"
    (folder / "leave").write_text("")
    end, message, cut = driver.result()
    if end == "LeaseLost":
        assert "another driver" in message
    talked = any(one.body and one.body["model"] == "first" for one in server.requests)
    assert cut == ["talk"] or not talked
    assert list(store.events(RUN_ID)) == events
    record = store.get(RUN_ID)
    assert (record.tasks, record.updated) == (tasks, updated)
    assert record.status is RunStatus.COMPLETE
    return end, talked


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=soak)])
def open_cache(request, unique, tmp_path):
    """Opens a cache; each process calls it for itself. number: of the run."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda number: RedisCache(url=url, default_prefix=f"{unique}-{number}")
    path = tmp_path / "runs.db"
    return lambda number: SQLiteCache(path, default_prefix=f"run-{number}", synchronous="normal")


@pytest.mark.parametrize(
    "after", [pytest.param(False, marks=soak, id="before"), pytest.param(True, id="after")]
)
def test_stopped_at_each_call(open_cache, server, tmp_path, after):
    """A driver is stopped before or after its n-th call to the store, until its lease has ended.

    Another one takes over. The first one then commits nothing, closes its stream of a model and
    raises LeaseLost; it returns the stored result if it had no lease yet.
    """
    ends = []
    for number in by_tier([12], soak=range(1, 41)):
        folder = tmp_path / str(number)
        folder.mkdir()
        del server.requests[:]
        reopen = functools.partial(open_cache, number)
        driver = Driver(drive_first, reopen, server.url, stop_at(number, after), folder)
        with reopen() as cache:
            ends.append(check_takeover(driver, RunStore(cache), server, folder))
    talked = [number for number, (_, talked) in enumerate(ends) if talked]
    assert len(talked) >= by_tier(1, soak=30)
    expected = [("LeaseLost" if number else "restored") for number in range(len(ends))]
    if after or len(ends) == 1:  # it has the lease when it is stopped for the first time
        expected[0] = "LeaseLost"
    assert [end for end, _ in ends] == expected


@soak
@pytest.mark.parametrize("late", [False, True], ids=["stopped", "late"])
def test_stopped_at_each_command(redis_url, unique, server, tmp_path, late):
    """A driver is stopped while the server executes its n-th command.

    late: the command reaches the server after the other driver has ended the run.
    """
    host, port = redis_url.rpartition("/")[0].rpartition("/")[2].split(":")
    proxy = RespProxy(host, int(port))
    ends = []
    for number in range(45):
        folder = tmp_path / str(number)
        folder.mkdir()
        del server.requests[:]
        prefix = f"{unique}-{number}"
        proxy.arm(number, "pause" if late else "call")

        def open_cache():
            url = f"redis://127.0.0.1:{proxy.port}/0"
            return RedisCache(url=url, default_prefix=prefix)

        started = []
        proxy.on_call = lambda: started[0].kill(signal.SIGSTOP)
        driver = Driver(drive_first, open_cache, server.url, None, folder)
        started.append(driver)
        with RedisCache(url=redis_url, default_prefix=prefix) as cache:
            ends.append(check_takeover(driver, RunStore(cache), server, folder, proxy.resume))
        assert len(proxy.faulted) == 1
    proxy.close()
    assert [end for end, _ in ends] == ["restored"] * late + ["LeaseLost"] * (45 - late)
    assert sum(talked for _, talked in ends) >= 30
