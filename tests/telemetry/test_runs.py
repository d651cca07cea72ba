"""Spans of runs and tasks: their parents, attributes, errors and ends."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import context as contexts, trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    Partial,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    tool,
)
from asimov_sync.telemetry import names
from asimov_sync.testing import Failure, ModelServer, calls, tool_results

from ..waiting import DEADLINE, Background, wait_for

MODES = [{"max_workers": 4}, {"max_workers": 0}, {"executor": ThreadPoolExecutor}]
AT_ONCE = Retry(attempts=2, wait=lambda state: 0)


@pytest.fixture(params=MODES, ids=str)
def options(request):
    """Return the options of a scheduler: its own threads, the calling thread, an executor."""
    options = dict(request.param)
    if "executor" in options:
        options["executor"] = options["executor"](4)
        request.addfinalizer(options["executor"].shutdown)
    return options


def one_task(**options):
    graph = TaskGraph("one")
    graph.add(Task(type="work"), name="work", **options)
    return graph


def test_documented_tree(options, exported):
    """The spans of a run form the documented tree.

    The run has an agent, parallel tools, a retried request, a retried task and a failure.
    """
    inline = options.get("max_workers") == 0
    barrier = threading.Barrier(1 if inline else 2)
    refusals = iter([Failure(529, headers={"retry-after": "0"})])
    attempts = []

    @tool
    def look_up(word: str) -> str:
        """Look a word up."""
        barrier.wait(DEADLINE)
        with exported.span("the index"):
            return word.upper()

    def model(body):
        if tool_results(body):
            return "found"
        return next(refusals, None) or calls(
            ("look_up", {"word": "one"}), ("look_up", {"word": "two"})
        )

    def flaky(task, context):
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise OSError("once")

    def failing(task, context):
        raise KeyError("no such thing")

    graph = TaskGraph("survey")
    graph.add(Task(type="ask", objective="what?"), name="ask")
    graph.add(Task(type="flaky"), name="flaky", retry=AT_ONCE)
    graph.add(Task(type="failing"), name="failing")
    graph.add(Task(type="flaky"), name="never", depends_on=["failing"])
    with ModelServer(model) as server, AnthropicInferenceClient(
        "m", api_key="none", api_url=server.url
    ) as client:
        agent = Agent(client, tools=[look_up], name="researcher")
        with TaskScheduler(
            {"ask": agent, "flaky": flaky, "failing": failing}, **options
        ) as scheduler:
            with exported.span("caller"):
                result = scheduler.run(graph)
    assert (result.status.name, attempts, len(server.requests)) == ("PARTIAL", [1, 2], 3)
    run = "/caller/invoke_workflow survey"
    agent_path = run + "/task ask/invoke_agent researcher"
    assert exported.paths() == [
        "/caller",
        run,
        run + "/task ask",
        agent_path,
        agent_path + "/chat m",
        agent_path + "/chat m",
        agent_path + "/execute_tool look_up",
        agent_path + "/execute_tool look_up",
        agent_path + "/execute_tool look_up/the index",
        agent_path + "/execute_tool look_up/the index",
        run + "/task failing ERROR",
        run + "/task flaky",
        run + "/task flaky ERROR",
    ]
    first, second = exported.spans_named("task flaky")
    assert [span.attributes[names.TASK_ATTEMPT] for span in (first, second)] == [1, 2]
    assert (first.attributes[names.ERROR_TYPE], names.ERROR_TYPE in second.attributes) == (
        "OSError",
        False,
    )
    assert {span.kind for span in exported.spans if span.name != "chat m"} == {SpanKind.INTERNAL}
    assert {span.kind for span in exported.spans_named("chat m")} == {SpanKind.CLIENT}


def test_task_attributes(exported):
    """A task's span has run, name, type, id, attempt, visit and status, but no error message."""
    graph = one_task()
    with TaskScheduler(
        {"work": lambda task, context: Partial(1, "the rest is secret")}
    ) as scheduler:
        result = scheduler.run(graph, run_id="r-1")
    span = exported.only_span("task work")
    assert dict(span.attributes) == {
        "asimov.run.id": "r-1",
        "asimov.task.name": "work",
        "asimov.task.type": "work",
        "asimov.task.id": str(graph["work"].id),
        "asimov.task.attempt": 1,
        "asimov.task.visit": 1,
        "asimov.task.status": "PARTIAL",
    }
    assert span.status.is_unset
    assert dict(exported.only_span("invoke_workflow one").attributes) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "one",
        "asimov.run.id": "r-1",
        "asimov.run.status": result.status.name,
    }


def test_unnamed_graph(exported):
    """The span of an unnamed graph does not use the run id, which would make each name unique."""
    graph = TaskGraph()
    with TaskScheduler() as scheduler:
        scheduler.run(graph)
        scheduler.run(TaskGraph("copied").copy())
    assert [span.name for span in exported.spans] == ["invoke_workflow", "invoke_workflow copied"]


def test_failed_run(exported):
    """The run has the error of its first failed task. Neither span has the message."""

    def work(task, context):
        raise ValueError("the password is swordfish")

    with TaskScheduler({"work": work}) as scheduler:
        scheduler.run(one_task())
    for name in ("task work", "invoke_workflow one"):
        span = exported.only_span(name)
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert span.attributes[names.ERROR_TYPE] == "ValueError"
        assert not span.events
        assert "swordfish" not in span.to_json()


def test_invalid_route(exported):
    """The span of a task that returns an invalid Route has the GraphError as its error."""
    with TaskScheduler({"work": lambda task, context: Route("nowhere")}) as scheduler:
        result = scheduler.run(one_task())
    assert result.status.name == "FAILED"
    span = exported.only_span("task work")
    assert span.attributes[names.ERROR_TYPE] == "asimov_sync.errors.GraphError"
    assert span.attributes[names.TASK_STATUS] == "FAILED"


def test_loop(exported):
    """Each visit has its own span."""

    def check(task, context):
        return Route("write") if context.visit < 3 else "good"

    graph = TaskGraph("loop")
    graph.add(Task(type="write"), name="write")
    graph.add(Task(type="check"), name="check", depends_on="write")
    with TaskScheduler({"write": lambda task, context: 1, "check": check}) as scheduler:
        assert scheduler.run(graph).status.name == "COMPLETE"
    for name in ("task write", "task check"):
        assert [span.attributes[names.TASK_VISIT] for span in exported.spans_named(name)] == [
            1,
            2,
            3,
        ]


def test_skipped_task(exported):
    """A skipped task has no span. Spans of its condition are children of the run."""

    def condition(inputs):
        with exported.span("condition"):
            return False

    graph = one_task(when=condition)
    with TaskScheduler({"work": lambda task, context: 1}) as scheduler:
        scheduler.run(graph)
    assert exported.paths() == ["/invoke_workflow one", "/invoke_workflow one/condition"]


@pytest.mark.parametrize("way", ["its time is over", "its run is cancelled"])
def test_abandoned_handler(way, exported):
    """The span ends when the run abandons the handler, not when the handler returns."""
    started, release = threading.Event(), threading.Event()

    def work(task, context):
        started.set()
        release.wait(DEADLINE)

    timeout = 0.01 if way == "its time is over" else None
    with TaskScheduler({"work": work}) as scheduler:
        run = scheduler.submit(one_task(timeout=timeout))
        assert started.wait(DEADLINE)
        if timeout is None:
            run.cancel("enough")
        result = run.result(DEADLINE)
        error = "asimov_sync.errors." + ("Cancelled" if timeout is None else "TaskTimeout")
        assert exported.paths() == [
            "/invoke_workflow one ERROR",
            "/invoke_workflow one ERROR/task work ERROR",
        ]
        release.set()
    assert [span.attributes[names.ERROR_TYPE] for span in exported.spans] == [error, error]
    assert result.status.name == "FAILED"
    wait_for(lambda: len(exported.spans) == 2)


def test_run_cancelled_while_task_starts(exported, monkeypatch):
    """A run can end while a task starts; the span of the task still ends."""
    called = []
    with TaskScheduler(
        {"work": lambda task, context: called.append(1)}, max_workers=0
    ) as scheduler:
        made = []

        class CancellingProcessor(SpanProcessor):
            def on_start(self, span, parent_context=None):
                if span.name == "task work":
                    made[0].cancel("just now")

        exported.tracer_provider.add_span_processor(CancellingProcessor())
        made.append(scheduler.submit(one_task()))
        assert made[0].result(DEADLINE).status.name == "FAILED"
    assert not called
    assert (
        exported.only_span("task work").attributes[names.ERROR_TYPE]
        == "asimov_sync.errors.Cancelled"
    )


class BlockingProcessor(SpanProcessor):
    """Blocks the thread that ends a span until `release` is set."""

    def __init__(self, name):
        self.name = name
        self.reached, self.release = threading.Event(), threading.Event()

    def on_end(self, span):
        if span.name == self.name:
            self.reached.set()
            assert self.release.wait(DEADLINE)


@pytest.mark.parametrize("way", ["run", "stream"])
@pytest.mark.parametrize("name", ["task work", "invoke_workflow one"])
def test_result_waits_for_spans(way, name, exported):
    """When a caller gets the result, all spans have ended, the run's as the last."""
    blocking = BlockingProcessor(name)
    exported.tracer_provider.add_span_processor(blocking)
    with TaskScheduler({"work": lambda task, context: 1}) as scheduler:
        waiting = Background(
            lambda: (
                list(scheduler.stream(one_task())) if way == "stream" else scheduler.run(one_task())
            )
        )
        assert blocking.reached.wait(DEADLINE)
        assert not exported.spans_named("invoke_workflow one") or name == "invoke_workflow one"
        waiting.thread.join(0.05)
        assert waiting.thread.is_alive()
        blocking.release.set()
        waiting.result()
    assert exported.spans[-1].name == "task work"
    ends = {span.name: span.end_time for span in exported.spans}
    assert ends["task work"] <= ends["invoke_workflow one"]


def test_nested_runs_and_spawned_tasks(options, exported):
    """A run that a handler starts is a child of the task; spawned tasks are children of the run."""

    def outer(task, context):
        context.spawn(Task(type="inner"), name="spawned")
        return scheduler.run(one_task()).status

    inside = TaskGraph()
    inside.add(Task(type="inner"), name="leaf")
    graph = TaskGraph("outer")
    graph.add(Task(type="outer"), name="top")
    graph.add_graph(inside, name="sub", depends_on=["top"])

    def plain(task, context):
        return 1

    with TaskScheduler({"outer": outer, "inner": plain, "work": plain}, **options) as scheduler:
        assert scheduler.run(graph).status.name == "COMPLETE"
    run = "/invoke_workflow outer"
    assert exported.paths() == [
        run,
        run + "/task spawned",
        run + "/task sub.leaf",
        run + "/task top",
        run + "/task top/invoke_workflow one",
        run + "/task top/invoke_workflow one/task work",
    ]


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_parent_is_submitter(way, options, exported):
    """The parent of a run is the span that is current at submit(), which stays current."""
    with TaskScheduler({"work": lambda task, context: 1}, **options) as scheduler:
        with exported.span("caller") as caller:
            started = getattr(scheduler, way)(one_task())
            assert trace.get_current_span() is caller
        with exported.span("waiting") as waiting:
            list(started) if way == "stream" else started.result(DEADLINE)
            assert trace.get_current_span() is waiting
    assert exported.paths() == [
        "/caller",
        "/caller/invoke_workflow one",
        "/caller/invoke_workflow one/task work",
        "/waiting",
    ]


def test_span_left_current(options, exported):
    """A span that a handler leaves current is not the parent of the next task's span."""

    def work(task, context):
        contexts.attach(trace.set_span_in_context(exported.tracer.start_span("left")))

    graph = one_task()
    graph.add(Task(type="work"), name="next", depends_on="work")
    with TaskScheduler({"work": work}, **options) as scheduler:
        scheduler.run(graph)
    assert exported.paths() == [
        "/invoke_workflow one",
        "/invoke_workflow one/task next",
        "/invoke_workflow one/task work",
    ]


def test_interrupted_run(exported):
    """KeyboardInterrupt ends the spans as cancelled."""

    def work(task, context):
        raise KeyboardInterrupt

    with TaskScheduler({"work": work}, max_workers=0) as scheduler:
        with pytest.raises(KeyboardInterrupt):
            scheduler.run(one_task())
    assert exported.paths() == [
        "/invoke_workflow one ERROR",
        "/invoke_workflow one ERROR/task work ERROR",
    ]
    assert (
        exported.only_span("task work").attributes[names.ERROR_TYPE]
        == "asimov_sync.errors.Cancelled"
    )


def test_rejected_run(exported):
    """A run that a closed scheduler rejects has no span."""
    scheduler = TaskScheduler({"work": lambda task, context: 1})
    scheduler.close()
    with pytest.raises(RuntimeError):
        scheduler.run(one_task())
    assert exported.paths() == []
