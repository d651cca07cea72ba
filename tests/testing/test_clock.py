"""testing.Clock: hours of time-outs, retries, waits and leases pass at once."""

import threading
import time

import pytest
import tenacity

from asimov_sync import (
    Cancellation,
    Cancelled,
    MemoryCache,
    RateLimit,
    Retry,
    RunTimeout,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.testing import Clock, Failure, ScriptedInferenceClient

from ..waiting import Background

HOUR = 3600.0


@pytest.fixture
def clock():
    """A clock in use. The test has to take much less than the time that it moves."""
    start = time.monotonic()
    with Clock() as clock:
        yield clock
    assert time.monotonic() - start < 10


@pytest.fixture
def run_graph():
    """Submit a graph of one task, whose handler is given."""
    schedulers = []

    def submit(handler, options=None, **run_options):
        scheduler = TaskScheduler({"t": handler}, max_workers=2)
        schedulers.append(scheduler)
        graph = TaskGraph()
        graph.add(Task(type="t"), name="t", **(options or {}))
        return scheduler.submit(graph, **run_options)

    yield submit
    for scheduler in schedulers:
        scheduler.close()


def wait_for_cancellation(task, context):
    context.cancellation.wait()
    context.cancellation.raise_if_cancelled()


@pytest.mark.parametrize("options", [({"timeout": HOUR}, {}), ({}, {"timeout": HOUR})])
def test_timeouts_of_tasks_and_runs(clock, run_graph, options):
    """A time-out of an hour ends the task, and not a minute before."""
    started = threading.Event()

    def handler(task, context):
        started.set()
        wait_for_cancellation(task, context)

    run = run_graph(handler, options[0], **options[1])
    assert started.wait(10)
    clock.advance(HOUR - 60)
    assert not run.done()
    clock.advance(60)
    result = run.result(10)
    assert result.status is TaskStatus.FAILED and "3600.0 s" in str(result.errors)


def test_waits_of_retries(clock, run_graph):
    """An attempt is made when its wait is over."""
    attempts = []

    def handler(task, context):
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("try again")

    retry = Retry(attempts=3, wait=tenacity.wait_fixed(HOUR))
    run = run_graph(handler, {"retry": retry})
    for made in (1, 2):
        clock.block_until(1)
        assert len(attempts) == made
        clock.advance(HOUR - 60)
        assert not run.done() and len(attempts) == made
        clock.advance(60)
    assert run.result(10).status is TaskStatus.COMPLETE


def test_the_wait_for_a_result(clock, run_graph):
    """`run.result(timeout)` raises when its time-out is over; the run continues."""
    release = threading.Event()
    run = run_graph(lambda task, context: release.wait(10))
    clock.advance(5)
    waiting = Background(run.result, HOUR)
    while waiting.thread.is_alive():
        clock.advance(HOUR)  # the thread may not have begun its wait
    with pytest.raises(RunTimeout):
        waiting.result()
    release.set()
    assert run.result(10).status is TaskStatus.COMPLETE


def test_tokens(clock):
    """At its deadline a token is cancelled, and a thread that waits for it wakes up."""
    token = Cancellation(timeout=HOUR, parent=None)
    waiting = Background(token.wait)
    clock.block_until(1)
    clock.advance(HOUR / 2)
    assert not token.cancelled and token.remaining < HOUR / 2 + 1
    clock.advance(HOUR / 2)
    assert waiting.result() is True
    assert token.cancelled and token.remaining == 0
    with pytest.raises(Cancelled):
        token.raise_if_cancelled()


def test_a_wait_of_limited_length(clock):
    """`Cancellation.wait(seconds)` returns False when the time is over."""
    waiting = Background(Cancellation(parent=None).wait, HOUR)
    clock.block_until(1)
    clock.advance(HOUR)
    assert waiting.result() is False


def test_expiry_and_leases(clock):
    """Values of a MemoryCache expire, and messages whose lease is over are delivered again."""
    cache = MemoryCache()
    cache.set("key", "value", ttl=HOUR)
    cache.publish_to_mailbox("jobs", "job")
    cache.receive("jobs", lease=HOUR)
    clock.advance(HOUR - 60)
    assert cache.get("key") == "value"
    assert cache.receive("jobs", timeout=0) is None
    reader = Background(cache.receive, "jobs", timeout=None)
    clock.block_until(1)
    clock.advance(60)
    assert cache.get("key", None) is None
    delivery = reader.result()
    assert (delivery.message, delivery.deliveries) == ("job", 2)


def test_a_blocked_reader_gives_up(clock):
    """`receive` returns None when its time-out is over."""
    reader = Background(MemoryCache().receive, "jobs", timeout=HOUR)
    clock.block_until(1)
    clock.advance(HOUR)
    assert reader.result() is None


def test_retries_of_a_client(clock):
    """A client waits as long as the retry-after header says."""
    script = [Failure(429, headers={"retry-after": "50"}), "hello"]
    client = ScriptedInferenceClient(script, max_retries=1)
    call = Background(client.generate, "hi")
    clock.block_until(1)
    clock.advance(49)
    assert len(client.requests) == 1
    clock.advance(1)
    assert call.result().text == "hello"


def test_rate_limits(clock):
    """A request waits for its turn."""
    client = ScriptedInferenceClient(["one", "two"], rate_limit=RateLimit(requests_per_minute=1))
    assert client.generate("hi").text == "one"
    call = Background(client.generate, "hi")
    clock.block_until(1)
    clock.advance(61)
    assert call.result().text == "two"


def test_time_passes_by_itself():
    """Nothing waits longer because a Clock is in use."""
    with Clock():
        assert Cancellation(parent=None).wait(0.02) is False


def test_after_the_block():
    """After the block, new deadlines follow the machine's clock, and advance() is an error."""
    with Clock() as clock:
        clock.advance(HOUR)
        token = Cancellation(timeout=HOUR, parent=None)
        assert token.deadline > time.monotonic() + HOUR
    assert abs(Cancellation(timeout=HOUR).deadline - time.monotonic() - HOUR) < 5
    with pytest.raises(RuntimeError, match="inside"):
        clock.advance(1)


def test_misuse(clock):
    """A second Clock, a negative step, and too few waits for block_until() are errors."""
    with pytest.raises(RuntimeError, match="another"):
        Clock().__enter__()
    for seconds in (-1, float("nan")):
        with pytest.raises(ValueError):
            clock.advance(seconds)
    with pytest.raises(TimeoutError, match="not 999"):
        clock.block_until(999, timeout=0.01)


def test_frozen_time_stops_no_timeout(monkeypatch, run_graph):
    """A program that replaces the functions of `time`, as freezegun does, delays no time-out."""
    from asimov_sync.concurrency import clock, event, timers

    for module in [time] + [clock, event, timers]:
        for name, value in list(vars(module).items()):
            if value is time.monotonic:
                monkeypatch.setattr(module, name, lambda: 5.0)
    assert time.monotonic() == 5.0
    run = run_graph(wait_for_cancellation, {"timeout": 0.02})
    assert run.result(10).status is TaskStatus.FAILED
    assert Cancellation(parent=None, timeout=0.01).wait() is True
