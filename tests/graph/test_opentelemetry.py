"""OpenTelemetry: spans made in handlers and tools have the span around the run as an ancestor."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import context as contexts, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asimov_sync import Agent, Task, TaskGraph, TaskScheduler, tool
from asimov_sync.testing import ScriptedInferenceClient, calls, tool_results

from ..waiting import Background

MODES = [
    {"max_workers": 4},
    {"max_workers": 1},
    {"max_workers": 0},
    {"executor": ThreadPoolExecutor},
]


class Spans:
    """A tracer, and the spans that it made."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.span = provider.get_tracer("tests").start_as_current_span
        self.start = provider.get_tracer("tests").start_span

    def paths(self):
        """Return, sorted, the names from the outermost ancestor to each finished span."""
        spans = {span.context.span_id: span for span in self._exporter.get_finished_spans()}

        def path(span):
            return (
                (path(spans[span.parent.span_id]) if span.parent is not None else "/")
                + span.name
                + "/"
            )

        return sorted(path(span) for span in spans.values())


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture(params=MODES, ids=str)
def scheduler(request, spans):
    """Return a scheduler whose tasks make spans: themselves, in a tool, or in a nested run."""

    @tool
    def look_up(word: str) -> str:
        """Look a word up."""
        with spans.span("look up " + word):
            return word.upper()

    def model(body):
        return (
            "found"
            if tool_results(body)
            else calls(("look_up", {"word": "one"}), ("look_up", {"word": "two"}))
        )

    options = dict(request.param)
    if "executor" in options:
        options["executor"] = options["executor"](4)
        request.addfinalizer(options["executor"].shutdown)
    agent = Agent(ScriptedInferenceClient(model), tools=[look_up])

    def plain(task, context):
        with spans.span(context.name):
            return context.name

    def ask(task, context):
        with spans.span(context.name):
            return agent(task, context)

    def inside(task, context):
        with spans.span(context.name):
            return scheduler.run(chain("ask", "plain")).results

    def leak(task, context):
        contexts.attach(trace.set_span_in_context(spans.start("leaked")))

    handlers = {"plain": plain, "ask": ask, "agent": agent, "inside": inside, "leak": leak}
    with TaskScheduler(handlers, **options) as scheduler:
        yield scheduler


def chain(*types):
    """Return a chain of tasks of these types, each named after its type."""
    graph = TaskGraph()
    before = []
    for type in types:
        before = [graph.add(Task(type=type, objective="x"), name=type, depends_on=before)]
    return graph


def test_handlers_and_tools(scheduler, spans):
    """Spans of handlers are children of the caller's; those of tools, of the handler's."""
    graph = chain("plain", "ask")
    graph.add(Task(type="agent", objective="x"), name="agent")
    graph.add(Task(type="inside"), name="inside", depends_on="plain")
    with spans.span("caller"):
        scheduler.run(graph).raise_for_failure()
    assert spans.paths() == [
        "/caller/",
        "/caller/ask/",
        "/caller/ask/look up one/",
        "/caller/ask/look up two/",
        "/caller/inside/",
        "/caller/inside/ask/",
        "/caller/inside/ask/look up one/",
        "/caller/inside/ask/look up two/",
        "/caller/inside/plain/",
        "/caller/look up one/",
        "/caller/look up two/",
        "/caller/plain/",
    ]


def test_span_left_open_by_a_handler(scheduler, spans):
    """A span left open is not the parent of the next task's span, nor current for the caller."""
    with spans.span("caller") as caller:
        scheduler.run(chain("leak", "plain")).raise_for_failure()
        assert trace.get_current_span() is caller
    assert spans.paths() == ["/caller/", "/caller/plain/"]


def test_parallel_callers(scheduler, spans):
    """Callers that share a scheduler do not get each other's spans."""

    def call(number):
        graph = TaskGraph()
        names = [f"{number}-{index}" for index in range(5)]
        for index, name in enumerate(names):
            graph.add(Task(type="plain"), name=name, depends_on=names[:index][-1:])
        with spans.span(f"caller {number}"):
            scheduler.run(graph).raise_for_failure()

    for run in [Background(call, number) for number in range(8)]:
        run.result()
    expected = [f"/caller {number}/{number}-{index}/" for number in range(8) for index in range(5)]
    assert [path for path in spans.paths() if path.count("/") == 3] == sorted(expected)
    assert len(spans.paths()) == 8 * 6


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_parent_is_the_span_around_submit(way, scheduler, spans):
    """The parent is the span that is current at the start, not while waiting for the result."""
    with spans.span("caller"):
        run = getattr(scheduler, way)(chain("plain", "ask"))
    with spans.span("waiting"):
        list(run) if way == "stream" else run.result()
    assert spans.paths() == [
        "/caller/",
        "/caller/ask/",
        "/caller/ask/look up one/",
        "/caller/ask/look up two/",
        "/caller/plain/",
        "/waiting/",
    ]
