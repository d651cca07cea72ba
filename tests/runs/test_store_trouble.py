"""Durable runs on a store that fails, values that it cannot store, and values that it must not."""

import base64
import itertools
import json
import threading

import pydantic
import pytest

from asimov_sync import (
    CacheUnavailable,
    Cancellation,
    MemoryCache,
    OutcomeUnknown,
    Partial,
    Route,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, wait_for
from .drivers import interpose

FAILURES = by_tier(1, soak=5)


def chain(*names):
    """A graph whose tasks run one after the other."""
    graph = TaskGraph()
    for index, name in enumerate(names):
        graph.add(
            Task(type="work"), name=name, depends_on=names[index - 1 : index] if index else ()
        )
    return graph


class Trouble:
    """Fails calls of the store.

    before, after: how many of the next calls fail before, and after, they had their effect.
    methods: the calls that may fail.
    failed: the number of calls that failed.
    """

    def __init__(self, *methods):
        self.methods = methods
        self.before = self.after = self.failed = 0
        self.lock = threading.Lock()

    def __call__(self, method, call):
        if method in self.methods:
            with self.lock:
                if self.before:
                    self.before -= 1
                    self.failed += 1
                    raise CacheUnavailable("the store does not answer")
                if self.after:
                    self.after -= 1
                    self.failed += 1
                    call()
                    raise OutcomeUnknown("the reply was lost")
        return call()


@suite
@pytest.mark.parametrize("workers", [0, 2], ids=["calling thread", "threads"])
@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize("at", ["a", "end"])
def test_a_short_failure_delays_the_run(workers, kind, at):
    """The run waits while the store fails, and continues; nothing is called or written twice."""
    trouble = Trouble("commit", "get", "wait")
    store = RunStore(interpose(MemoryCache(), trouble))
    calls = []

    def work(task, context):
        calls.append(context.name)
        context.step("step", calls.append, f"step of {context.name}")
        if context.name == at or (at, context.name) == ("end", "c"):
            setattr(trouble, kind, FAILURES)
        return context.name

    with TaskScheduler({"work": work}, max_workers=workers, runs=store) as scheduler:
        result = scheduler.run(chain("a", "b", "c"), run_id="r")
    assert trouble.failed == FAILURES
    assert result.results == store.result("r").results == {"a": "a", "b": "b", "c": "c"}
    assert calls == [text for name in "abc" for text in (name, f"step of {name}")]
    numbers = [event["sequence"] for event in store.events("r")]
    assert numbers == sorted(set(numbers))
    finished = [one["name"] for one in store.events("r") if one["type"] == "task_finished"]
    assert finished == ["a", "b", "c"]


@suite
@pytest.mark.parametrize("workers", [0, 2], ids=["calling thread", "threads"])
def test_a_long_failure_interrupts_the_run(workers):
    """A store that fails for longer than the lease ends the drive; later the run continues."""
    trouble = Trouble("commit", "get", "wait")
    store = RunStore(interpose(MemoryCache(), trouble), lease=0.2)
    calls = []

    def work(task, context):
        calls.append(context.name)
        if calls == ["a", "b"]:
            trouble.before = 10**6
        return context.name

    with TaskScheduler({"work": work}, max_workers=workers, runs=store) as scheduler:
        with pytest.raises(CacheUnavailable, match="has failed for .* does not answer"):
            scheduler.submit(chain("a", "b", "c"), run_id="r").result(DEADLINE)
        trouble.before = 0
        wait_for(lambda: store.get("r").lease_until is None)
        assert calls == ["a", "b"]
        result = scheduler.run(chain("a", "b", "c"), run_id="r", if_running="wait")
    assert result.status is TaskStatus.COMPLETE
    assert calls == ["a", "b", "b", "c"]


def test_events_of_a_write_that_failed_are_written_later():
    """An event whose write fails is in the log as soon as the store answers again."""
    trouble = Trouble("commit")
    store = RunStore(interpose(MemoryCache(), trouble), lease=0.15)

    def work(task, context):
        context.report(0.5, "half")
        trouble.before = 1
        wait_for(lambda: trouble.failed, "a renewal of the lease that fails")

    with TaskScheduler({"work": work}, max_workers=1, runs=store) as scheduler:
        scheduler.run(chain("a"), run_id="r")
    kinds = [event["type"] for event in store.events("r")]
    assert kinds == [
        "run_started",
        "task_started",
        "task_progress",
        "task_finished",
        "run_finished",
    ]


def test_a_store_that_fails_at_the_start(store):
    """A run that cannot be opened raises, and its graph can run after that."""
    trouble = Trouble("claim")
    trouble.before = 1
    store = RunStore(interpose(MemoryCache(), trouble))
    graph = chain("a")
    with TaskScheduler({"work": lambda task, context: 1}, runs=store) as scheduler:
        with pytest.raises(CacheUnavailable):
            scheduler.run(graph, run_id="r")
        assert scheduler.run(graph, run_id="r").status is TaskStatus.COMPLETE


# Values


class Model(pydantic.BaseModel):
    """A model whose field may hold anything."""

    value: object = None


UNSTORABLE = {
    "object": object(),
    "set": {"a": [{1, 2}]},
    "float": float("nan"),
    "bytes": b"\xff",
}


@pytest.mark.parametrize("place", ["result", "partial", "route", "step", "data", "spawn"])
@pytest.mark.parametrize("name", UNSTORABLE)
def test_values_that_cannot_be_stored(store, place, name):
    """A value that JSON cannot hold fails its task, with an error that says what to do."""
    value = UNSTORABLE[name]

    def work(task, context):
        if place == "step":
            context.step("make", lambda: value)
        if place == "data":
            context.wait_for("answer", data=value)
        if place == "spawn":
            context.spawn(Task(type="work", params={"value": value}))
        if place == "partial":
            return Partial(value, "half")
        return Route("b", result=value) if place == "route" else value

    with TaskScheduler({"work": work}, max_workers=0, runs=store) as scheduler:
        result = scheduler.run(chain("a", "b"), run_id="r")
        again = scheduler.run(chain("a", "b"), run_id="r")
    assert "serializer=" in result.errors["a"] and "cannot" in result.errors["a"]
    if name in ("object", "set"):
        assert f"{name} is not JSON" in result.errors["a"]
    assert again.restored and again.errors == result.errors
    assert list(result.skipped) == ["b"]


def test_a_value_that_is_too_long(make_store):
    """A value above max_result_bytes fails its task."""
    store = make_store(max_result_bytes=100)
    with TaskScheduler({"work": lambda task, context: "x" * 99}, runs=store) as scheduler:
        result = scheduler.run(chain("a"), run_id="r")
    assert "101 bytes" in result.errors["a"] and "max_result_bytes=100" in result.errors["a"]


class Scrambled:
    """A serializer that stands for an encryption: no text of a value is found in its bytes."""

    def dumps(self, value):
        text = json.dumps(value).encode()
        return base64.b85encode(bytes(byte ^ 0x5A for byte in text))

    def loads(self, data):
        return json.loads(bytes(byte ^ 0x5A for byte in base64.b85decode(data)))


SECRET = "hunter2"


def play_with_secrets(store, path=None):
    """Run a graph whose every value and text has the secret. Returns the results of its drives."""
    numbers = itertools.count()

    def work(task, context):
        say = f"{SECRET} {next(numbers)}"
        context.report(0.5, say, data=say)
        if context.name == "spawner":
            context.spawn(
                Task(type="work", objective="child", params={"key": SECRET}), name="child"
            )
        if context.name == "child":
            assert task.params == {"key": SECRET}
        if context.name == "failing":
            raise ValueError(say)
        if context.name == "half":
            return Partial(say, f"{SECRET} is missing")
        if context.name == "waiting":
            context.step("step", lambda: say)
            return context.wait_for(
                "answer", prompt=f"{SECRET}?", data={"key": SECRET}, type=str, timeout=500
            )
        return {"say": say, "feedback": dict(context.feedback)}

    def build():
        graph = TaskGraph()
        for name in ("spawner", "failing", "half", "waiting"):
            graph.add(Task(type="work", params={"key": [SECRET]}), name=name)
        return graph

    with TaskScheduler({"work": work}, max_workers=0, runs=store) as scheduler:
        first = scheduler.run(build(), run_id="r")
        store.answer("r", "answer", f"{SECRET}!", by="ann")
        return first, scheduler.run(build(), run_id="r")


def stored_bytes(cache_path):
    """Return all bytes of the files of a SQLite cache."""
    return b"".join(path.read_bytes() for path in cache_path.parent.glob(cache_path.name + "*"))


def test_a_serializer_that_encrypts(tmp_path):
    """With serializer=, no text of results, params, errors, events or answers is in the store."""
    path = tmp_path / "runs.db"
    with SQLiteCache(path, synchronous="normal") as cache:
        store = RunStore(cache, serializer=Scrambled())
        first, last = play_with_secrets(store)
        assert first.waiting == {"waiting": ["answer"]}
        assert last.results["waiting"] == f"{SECRET}!"
        assert SECRET in last.errors["failing"] and SECRET in str(last.exceptions["failing"])
        assert SECRET in json.dumps(list(store.events("r")))
        assert store.result("r").results == last.results
        assert SECRET.encode() not in stored_bytes(path)
        play_with_secrets(RunStore(cache.with_prefix("plain")))
        assert SECRET.encode() in stored_bytes(path)


class Slow(Scrambled):
    """A serializer that takes longer for an outcome than the lease lasts.

    is_renewed: returns whether the lease was renewed meanwhile.
    """

    def __init__(self, is_renewed):
        self._is_renewed = is_renewed

    def dumps(self, value):
        if isinstance(value, dict) and value.get("phase") == "COMPLETE":
            wait_for(self._is_renewed)
        return super().dumps(value)


def test_the_lease_is_renewed_while_a_value_is_serialized(make_store):
    """The lease is renewed while a serializer takes longer for an outcome than the lease lasts."""
    began = []

    def is_renewed():
        until = store.get("r").lease_until
        began.append(until)
        return until > began[0]

    store = make_store(lease=0.3, serializer=Slow(is_renewed))
    with TaskScheduler({"work": lambda task, context: 1}, max_workers=1, runs=store) as scheduler:
        assert scheduler.run(chain("a"), run_id="r").results == {"a": 1}


def hide(value):
    """Replace the secret in a value."""
    return json.loads(json.dumps(value).replace(SECRET, "***"))


def test_redaction(tmp_path):
    """With redact=, the secret is not stored, and results are those that were stored."""
    path = tmp_path / "runs.db"
    with SQLiteCache(path, synchronous="normal") as cache:
        store = RunStore(cache, redact=hide)

        def work(task, context):
            context.report(0.5, SECRET, data={"key": SECRET})
            if context.name == "failing":
                raise ValueError(SECRET)
            context.step("step", lambda: SECRET)
            if context.name == "plain":
                context.spawn(Task(type="work", objective=SECRET), name="child")
            if context.name == "half":
                return Partial(SECRET, SECRET)
            if context.name == "waiting":
                return context.wait_for("answer", prompt=SECRET, data=SECRET)
            return [SECRET]

        graph = TaskGraph()
        for name in ("plain", "failing", "half", "waiting"):
            graph.add(Task(type="work", objective=SECRET), name=name)
        with TaskScheduler({"work": work}, max_workers=0, runs=store) as scheduler:
            scheduler.run(graph, run_id="r")
            (wait,) = store.waits("r")
            assert (wait.prompt, wait.data) == ("***", "***")
            store.answer("r", "answer", SECRET, by=SECRET)
            result = scheduler.run(graph, run_id="r")
            scheduler.run(graph.copy(), run_id="parked")
            assert store.cancel("parked", SECRET)
            run = scheduler.submit(graph.copy(), run_id="cancelled")
            assert run.cancel(SECRET)
            assert run.result().reason == "***"
            token = Cancellation()
            run = scheduler.submit(graph.copy(), run_id="interrupted", cancellation=token)
            token.cancel(SECRET)
            assert run.result().reason == "***"
        for run_id in ("parked", "cancelled", "interrupted"):
            assert store.result(run_id).reason == "***"
        assert result.results == {
            "plain": ["***"],
            "child": ["***"],
            "half": "***",
            "waiting": "***",
        }
        assert result.errors == {"failing": "ValueError: ***", "half": "***"}
        assert SECRET.encode() not in stored_bytes(path)


def test_a_redaction_that_fails(make_store):
    """An exception of redact= fails the task, and its secret is not stored."""

    def refuse(value):
        if SECRET in str(value):
            raise LookupError("not that")
        return value

    store = make_store(redact=refuse)
    with TaskScheduler({"work": lambda task, context: SECRET}, runs=store) as scheduler:
        result = scheduler.run(chain("a"), run_id="r")
    assert result.errors == {"a": "LookupError: not that"}
    assert store.get("r").status is RunStatus.FAILED
