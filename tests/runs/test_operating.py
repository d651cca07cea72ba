"""The operation of runs from other processes: lists, events, answers, and what continues them."""

import datetime
import json
import threading

import pytest

from asimov_sync import (
    CacheValueError,
    ClosedError,
    GraphError,
    MemoryCache,
    Route,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    WaitTimeout,
)
from asimov_sync.testing import ScriptedInferenceClient

from ..tiers import suite
from ..waiting import DEADLINE, Background, wait_for
from .drivers import CRASH, Driver, crash_at, interpose


def build(*names):
    """A graph of tasks that do not depend on each other."""
    graph = TaskGraph()
    for name in names:
        graph.add(Task(type=name.partition("-")[0]), name=name)
    return graph


def ask(task, context):
    """Wait for the answer "ok"."""
    return context.wait_for("ok", type=int)


def hold(task, context):
    """Run until the task is cancelled."""
    context.cancellation.wait(DEADLINE)
    context.cancellation.raise_if_cancelled()


def fail(task, context):
    """Fail."""
    raise ValueError(context.name)


HANDLERS = {"ask": ask, "hold": hold, "fail": fail, "work": lambda task, context: context.name}


@pytest.fixture
def scheduler(store):
    """A scheduler of durable runs."""
    with TaskScheduler(HANDLERS, max_workers=2, runs=store) as scheduler:
        yield scheduler


def ids(records):
    """Return the ids of runs."""
    return [record.run_id for record in records]


def test_lists(scheduler, store):
    """Runs are listed by status, tags and time, in pages, the newest first."""
    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)
    for number in range(7):
        name = ["work", "fail", "ask"][number % 3]
        tags = {"tenant": str(number % 2), "kind": name}
        scheduler.run(build(name), run_id=f"r{number}", tags=tags)
    newest = [f"r{number}" for number in reversed(range(7))]
    assert ids(store.list()) == newest
    assert ids(store.list(status="failed")) == ["r4", "r1"]
    assert ids(store.list(status=[RunStatus.PARKED, "complete"])) == ["r6", "r5", "r3", "r2", "r0"]
    assert ids(store.list(tags={"tenant": "1", "kind": "ask"})) == ["r5"]
    assert ids(store.list(tags={"tenant": "2"})) == []
    assert ids(store.list(since=before)) == newest
    assert ids(store.list(until=before)) == []
    pages, last = [], None
    while True:
        page = store.list(after=last, limit=3)
        if not page:
            break
        pages += ids(page)
        last = page[-1]
    assert pages == newest
    assert ids(store.list(after="r5", limit=2)) == ["r4", "r3"]
    assert store.stats() == {"complete": 3, "failed": 2, "parked": 2}
    assert store.get("r1").error == "ValueError: fail"
    with pytest.raises(KeyError, match="r9"):
        store.list(after="r9")
    with pytest.raises(ValueError, match="nothing"):
        store.list(status="nothing")


def talk(path):
    """Run a task that streams a reply, in a process of its own."""
    client = ScriptedInferenceClient(lambda body: "one two three")
    store = RunStore(SQLiteCache(path, synchronous="normal"))

    def say(task, context):
        context.report(0.5, "half way")
        return client.generate("hello").text

    with TaskScheduler({"say": say}, max_workers=2, runs=store) as scheduler:
        return scheduler.run(build("say"), run_id="r").status.name


@suite
def test_events_of_another_process(tmp_path):
    """Events of a run of another process arrive while it runs, with the text of replies."""
    path = tmp_path / "runs.db"
    store = RunStore(SQLiteCache(path, synchronous="normal"))
    driver = Driver(talk, path)
    wait_for(lambda: store.list() != [])
    events = list(store.events("r"))
    assert driver.result() == "COMPLETE"
    kinds = [event["type"] for event in events]
    assert kinds[0] == "run_started" and kinds[-1] == "run_finished"
    assert "".join(one["text"] for one in events if one["type"] == "task_text") == "one two three"
    assert [one["text"] for one in events if one["type"] == "task_progress"] == ["half way"]
    middle = events[2]["sequence"]
    assert list(store.events("r", after=middle)) == events[3:]
    assert json.dumps(events)


def test_cancel_under_a_driver(scheduler, store):
    """store.cancel ends a run of another driver within 0.5 seconds, for good."""
    run = scheduler.submit(build("work", "hold"), run_id="r")
    wait_for(lambda: "work" in store.get("r").tasks)
    assert store.cancel("r", "not needed") is True
    result = run.result(DEADLINE)
    assert result.reason == "not needed" and list(result.errors) == ["hold"]
    assert store.get("r").status is RunStatus.CANCELLED
    assert store.cancel("r") is False
    assert scheduler.run(build("work", "hold"), run_id="r").restored


def test_cancel_without_a_driver(scheduler, store):
    """store.cancel ends a parked run, whose result says so."""
    scheduler.run(build("work", "ask"), run_id="r")
    assert store.cancel("r", "not needed") is True
    assert store.get("r").status is RunStatus.CANCELLED
    assert store.waits() == [] and store.ready() == []
    assert store.answer("r", "ok", 1) is False
    again = scheduler.run(build("work", "ask"), run_id="r")
    for result in (again, store.result("r")):
        assert result.results == {"work": "work"}
        assert "not needed" in result.skipped["ask"] and result.reason == "not needed"
        assert result.status is TaskStatus.PARTIAL
    assert list(store.events("r"))[-1]["status"] == "cancelled"
    with pytest.raises(KeyError, match="nothing"):
        store.cancel("nothing")


def test_delete_under_a_driver(scheduler, store):
    """A driver whose run is deleted raises LeaseLost, and writes nothing any more."""
    run = scheduler.submit(build("work", "hold"), run_id="r")
    wait_for(lambda: "work" in store.get("r").tasks)
    assert store.delete("r") is True
    with pytest.raises(Exception, match="deleted"):
        run.result(DEADLINE)
    assert store.delete("r") is False and store.list() == []
    with pytest.raises(KeyError, match="no stored run 'r'"):
        store.get("r")


def test_answers(scheduler, store):
    """A wait of several tasks needs task=; a wrong type is refused; the first answer counts."""
    result = scheduler.run(build("ask-1", "ask-2"), run_id="r")
    assert result.waiting == {"ask-1": ["ok"], "ask-2": ["ok"]}
    with pytest.raises(ValueError, match="task=.*'ask-1', 'ask-2'"):
        store.answer("r", "ok", 1)
    with pytest.raises(ValueError, match="integer"):
        store.answer("r", "ok", "one", task="ask-1")
    assert store.ready() == []
    assert store.answer("r", "ok", 1, task="ask-1", by="ann") is True
    assert store.answer("r", "ok", 2, task="ask-1") is False
    assert [wait.task for wait in store.waits()] == ["ask-2"]
    assert ids(store.ready()) == ["r"]
    result = scheduler.run(build("ask-1", "ask-2"), run_id="r")
    assert result.results == {"ask-1": 1} and result.waiting == {"ask-2": ["ok"]}
    assert store.ready() == []
    # Nobody waits for these yet.
    assert store.answer("r", "later", {"x": 1}) is True
    assert store.answer("r", "later", 2) is False
    assert store.answer("r", "ok", 2) is True
    assert scheduler.run(build("ask-1", "ask-2"), run_id="r").results == {"ask-1": 1, "ask-2": 2}
    assert store.answer("r", "ok", 3) is False
    with pytest.raises(KeyError, match="nothing"):
        store.answer("nothing", "ok", 1)


def test_an_early_answer_of_a_wrong_type(scheduler, store):
    """An answer before the wait that does not fit its type fails the task, and says why."""
    run = scheduler.submit(build("hold", "ask"), run_id="r")
    wait_for(lambda: store.waits("r"))
    run.cancel()
    run.result(DEADLINE)
    scheduler.handlers["ask"] = lambda task, context: (
        store.answer("early", "ok", "one"),
        context.wait_for("ok", type=int),
    )
    result = scheduler.run(build("ask"), run_id="early")
    assert "int" in result.errors["ask"]


def test_an_early_answer_of_a_later_visit(scheduler, store):
    """When a loop has left a visit, its answer is none to the question of the next visit."""
    answered = []

    @scheduler.handler("first")
    def first(task, context):
        answered.append(store.answer("r", "ok", context.visit))
        answered.append(store.answer("r", "ok", 0))

    @scheduler.handler("last")
    def last(task, context):
        answered.append(store.answer("r", "ok", 0))
        return Route("first") if context.visit < 3 else context.inputs["ask"]

    graph = TaskGraph()
    for before, name in (((), "first"), (["first"], "ask"), (["ask"], "last")):
        graph.add(Task(type=name), name=name, depends_on=before)
    assert scheduler.run(graph, run_id="r")["last"] == 3
    assert answered == [True, False, False] * 3


def test_an_early_answer_does_not_make_a_parked_run_ready(scheduler, store):
    """An answer to what a parked run does not ask yet leaves it parked, and is kept."""

    @scheduler.handler("twice")
    def twice(task, context):
        return [context.wait_for("ok"), context.wait_for("later")]

    assert scheduler.run(build("twice"), run_id="r").waiting == {"twice": ["ok"]}
    assert store.answer("r", "later", 2)
    assert store.ready() == []
    assert store.answer("r", "ok", 1)
    assert ids(store.ready()) == ["r"]
    assert scheduler.run(build("twice"), run_id="r").results == {"twice": [1, 2]}


def test_an_early_answer_while_the_run_parks_for_it():
    """A run that has come to park for an answer since it was read is ready when it is there."""
    store = RunStore(interpose(MemoryCache(), lambda method, call: on_call(method, call)))
    with TaskScheduler(HANDLERS, max_workers=0, runs=store) as scheduler:

        @scheduler.handler("twice")
        def twice(task, context):
            return [context.wait_for("ok"), context.wait_for("later")]

        on_call = lambda method, call: call()  # noqa: E731
        scheduler.run(build("twice"), run_id="r")

        def drive_before_post(method, call):
            nonlocal on_call
            if method == "post":
                on_call = lambda method, call: call()  # noqa: E731
                store.answer("r", "ok", 1)
                assert scheduler.run(build("twice"), run_id="r").waiting == {"twice": ["later"]}
            return call()

        on_call = drive_before_post
        assert store.answer("r", "later", 2)
        assert ids(store.ready()) == ["r"]
        assert scheduler.run(build("twice"), run_id="r").results == {"twice": [1, 2]}


def test_a_run_that_cannot_start_leaves_nothing(scheduler, store):
    """A run on a closed scheduler, or of a graph that runs already, is not stored."""
    graph = build("hold")
    run = scheduler.submit(graph, run_id="r")
    with pytest.raises(GraphError, match="run"):
        scheduler.submit(graph, run_id="other")
    run.cancel()
    run.result(DEADLINE)
    scheduler.close()
    with pytest.raises(ClosedError):
        scheduler.submit(build("work"), run_id="late")
    assert ids(store.list()) == ["r"]


def test_waiting_for_a_driver(monkeypatch, open_cache):
    """if_running="wait" reads the record as a whole only when its driver has ended."""
    monkeypatch.setattr("asimov_sync.runs.store.WAIT_SECONDS", 2 * DEADLINE)
    cache, calls, release = open_cache("memory"), [], threading.Event()
    driving = RunStore(cache)

    def on_call(method, call):
        calls.append(method)
        return call()

    waiting = RunStore(interpose(cache, on_call))
    with TaskScheduler(dict(HANDLERS, hold=lambda *_: release.wait(DEADLINE)), runs=driving) as one:
        run = one.submit(build("hold", "work"), run_id="r")
        wait_for(lambda: "work" in driving.get("r").tasks)
        with TaskScheduler(HANDLERS, runs=waiting) as other:
            call = Background(other.run, build("hold", "work"), run_id="r", if_running="wait")
            wait_for(lambda: "wait" in calls)
            release.set()
            assert call.result().restored and run.result(DEADLINE)
    assert calls.count("claim") == 2


def test_waits_of_an_interrupted_run(scheduler, store):
    """The waits of a run that is driven, or was interrupted, are listed and can be answered."""
    run = scheduler.submit(build("ask", "hold"), run_id="r")
    wait_for(lambda: store.waits())
    scheduler.close()
    run.result(DEADLINE)
    assert store.get("r").status is RunStatus.INTERRUPTED
    assert [wait.task for wait in store.waits()] == ["ask"]
    assert store.answer("r", "ok", 5)
    with TaskScheduler(dict(HANDLERS, hold=ask), max_workers=0, runs=store) as another:
        result = another.run(build("ask", "hold"), run_id="r")
    assert result.results == {"ask": 5}


def test_an_answer_reaches_the_driver(scheduler, store):
    """An answer continues a task while its run is driven."""
    run = scheduler.submit(build("ask", "hold"), run_id="r")
    wait_for(lambda: store.waits("r"))
    assert store.answer("r", "ok", 5)
    wait_for(lambda: store.result("r").results == {"ask": 5})
    assert store.result("r").status is TaskStatus.EXECUTING
    run.cancel()


def test_approvals_that_do_not_wait(scheduler, store):
    """approve() names the calls that wait, and is not for other waits."""
    scheduler.run(build("ask"), run_id="r")
    with pytest.raises(ValueError, match="'ok'.*none"):
        store.approve("r", {"ok": True})
    with pytest.raises(KeyError, match="nothing"):
        store.approve("nothing", {"ok": True})


def test_the_deadline_of_a_wait(clock):
    """A parked run is ready when the deadline of a wait has passed; then WaitTimeout is raised."""
    store, seen = RunStore(MemoryCache()), []

    def impatient(task, context):
        try:
            return context.wait_for("ok", timeout=60)
        except WaitTimeout as error:
            seen.append(str(error))
            return "nobody"

    with TaskScheduler({"ask": impatient}, max_workers=0, runs=store) as scheduler:
        assert scheduler.run(build("ask"), run_id="r").waiting == {"ask": ["ok"]}
        clock.advance(40)
        assert store.ready() == []
        # Another drive does not extend the deadline.
        assert scheduler.run(build("ask"), run_id="r").waiting == {"ask": ["ok"]}
        clock.advance(25)
        assert ids(store.ready()) == ["r"]
        assert scheduler.run(build("ask"), run_id="r").results == {"ask": "nobody"}
    assert len(seen) == 1 and "60" in seen[0]


def flows(path, on_call=None):
    """Return a scheduler in which the flow is registered."""
    cache = SQLiteCache(path, synchronous="normal")
    store = RunStore(cache if on_call is None else interpose(cache, on_call))
    scheduler = TaskScheduler(HANDLERS, max_workers=0, runs=store)

    @scheduler.flow("questions")
    def questions(names):
        return build(*names)

    return scheduler


def start_flow(path):
    """Start a run of the flow."""
    with flows(path) as scheduler:
        result = scheduler.run("questions", args={"names": ("ask", "work")}, run_id="r")
        return result.waiting


@suite
def test_a_flow_is_resumed_in_another_process(tmp_path):
    """The name and the arguments of a flow are enough to continue its run in another process."""
    path = tmp_path / "runs.db"
    assert Driver(start_flow, path).result() == {"ask": ["ok"]}
    with flows(path) as scheduler:
        store = RunStore(SQLiteCache(path, synchronous="normal"))
        record = store.get("r")
        assert (record.flow, record.args) == ("questions", {"names": ["ask", "work"]})
        store.answer("r", "ok", 3)
        (ready,) = store.ready()
        assert scheduler.resume(ready.run_id).results == {"ask": 3, "work": "work"}
        assert scheduler.resume("r").restored
        with pytest.raises(GraphError, match="'other'.*'questions'"):
            scheduler.run("other", run_id="x")
        with pytest.raises(KeyError, match="nothing"):
            scheduler.resume("nothing")
        scheduler.run(build("work"), run_id="plain")
        with pytest.raises(GraphError, match="started with a graph"):
            scheduler.resume("plain")
        scheduler.flows.clear()
        with pytest.raises(GraphError, match="'questions'.*none"):
            scheduler.resume("r")


def test_an_enqueued_run(scheduler, store):
    """enqueue() creates a run once and calls nothing; ready() lists it, and resume() runs it."""
    builds = []

    @scheduler.flow("questions")
    def questions(names, kind="work"):
        builds.append(kind)
        return build(*names)

    args = {"names": ("ask", "work")}
    assert scheduler.enqueue("questions", run_id="r", args=args, tags={"tenant": "7"}) is True
    assert scheduler.enqueue("questions", run_id="r", args={"names": []}) is False
    (record,) = store.ready()
    assert (record.run_id, record.status, record.lease_until) == ("r", RunStatus.INTERRUPTED, None)
    assert (record.flow, record.args) == ("questions", {"names": ["ask", "work"]})
    assert (record.tags, record.tasks, list(store.events("r"))) == ({"tenant": "7"}, {}, [])
    assert builds == []
    with scheduler.stream("questions", args=record.args, run_id="r") as events:
        first, *_, last = events
    assert first.restored == () and last.result.waiting == {"ask": ["ok"]}
    assert scheduler.enqueue("questions", run_id="r", args=args) is False
    assert store.get("r").status is RunStatus.PARKED
    store.answer("r", "ok", 1)
    assert scheduler.resume("r").results == {"ask": 1, "work": "work"}
    assert scheduler.enqueue("questions", run_id="other", args=args)
    assert store.cancel("other") and store.get("other").status is RunStatus.CANCELLED
    assert store.ready() == []


def test_enqueue_checks_its_arguments(scheduler, store):
    """enqueue() refuses a run that no worker could start, and stores nothing."""
    scheduler.flow("questions")(lambda names: build(*names))
    with pytest.raises(GraphError, match="'answers'.*'questions'"):
        scheduler.enqueue("answers", run_id="r")
    for args in (None, {"name": ["ask"]}, ["ask"]):
        with pytest.raises(TypeError, match="args="):
            scheduler.enqueue("questions", run_id="r", args=args)
    with pytest.raises(ValueError, match="run_id"):
        scheduler.enqueue("questions", run_id="a b", args={"names": []})
    with pytest.raises(TypeError, match="tags="):
        scheduler.enqueue("questions", run_id="r", args={"names": []}, tags={"tenant": 7})
    with pytest.raises(CacheValueError, match="object"):
        scheduler.enqueue("questions", run_id="r", args={"names": object()})
    with pytest.raises(ValueError, match="store"):
        TaskScheduler().enqueue("questions", run_id="r")
    assert store.list() == []


def test_a_producer_that_dies_while_it_enqueues(tmp_path):
    """A run whose producer was killed before it gave up the lease is ready as well."""
    path = tmp_path / "runs.db"

    def enqueue():
        with flows(path, crash_at(1, after=True)) as scheduler:
            scheduler.enqueue("questions", run_id="r", args={"names": ["work"]})

    assert Driver(enqueue).wait() == CRASH
    with flows(path) as scheduler:
        (record,) = scheduler.runs.ready()
        assert record.status is RunStatus.ORPHANED
        assert scheduler.resume("r").results == {"work": "work"}


def test_a_lost_run_does_not_end_the_others(store):
    """A run that was deleted does not interrupt the others when the scheduler is left."""
    release = []

    def slow(task, context):
        wait_for(lambda: release)
        return 1

    scheduler = TaskScheduler({"hold": hold, "slow": slow}, max_workers=3, runs=store)
    lost = scheduler.submit(build("hold"), run_id="lost")
    run = scheduler.submit(build("slow"), run_id="kept")
    leaving = Background(scheduler.shutdown)
    store.delete("lost")
    wait_for(lost.done)
    release.append(True)
    assert leaving.result() is True
    assert run.result(DEADLINE).results == {"slow": 1}


def test_a_continued_run_is_not_interrupted_any_more(scheduler, store):
    """The record of a run that is continued does not have the error of its interruption."""
    with scheduler.stream(build("hold"), run_id="r") as events:
        next(events)
    assert store.get("r").error == "its events were not read to the end"
    run = scheduler.submit(build("hold"), run_id="r")
    assert store.get("r").error is None
    run.cancel()
    run.result()
