"""install() and uninstall(): imports install nothing; providers, replacement, failing hooks."""

import logging
import os
import subprocess
import sys

import pytest

from asimov_sync import Agent, Task, TaskGraph, TaskScheduler, instrumentation, telemetry, tool
from asimov_sync.instrumentation import Instrumentation
from asimov_sync.telemetry import STABILITY_OPT_IN, names
from asimov_sync.testing import ScriptedInferenceClient, calls, tool_results

from ..tiers import suite
from ..waiting import in_child
from .exported import Exported


@pytest.fixture(autouse=True)
def uninstalled():
    yield
    telemetry.uninstall()


def run_one(handler=lambda task, context: 1):
    graph = TaskGraph("one")
    graph.add(Task(type="work"), name="work")
    with TaskScheduler({"work": handler}) as scheduler:
        return scheduler.run(graph)


def program(text, **environment):
    done = subprocess.run(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        env=dict(os.environ, **environment),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@suite
def test_import_installs_nothing():
    """Importing the library loads no opentelemetry; importing telemetry installs no hooks."""
    program(
        "import sys\n"
        "from asimov_sync import Agent, AnthropicInferenceClient, TaskScheduler, instrumentation\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "from asimov_sync import telemetry\n"
        "assert instrumentation.installed is None\n"
        "telemetry.install()\n"
        "assert instrumentation.installed is not None\n"
        "telemetry.uninstall()\n"
        "assert instrumentation.installed is None\n"
    )


GLOBAL = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from tests.telemetry.exported import Exported
from asimov_sync import telemetry
from asimov_sync.testing import ScriptedInferenceClient

made = Exported()
{}
ScriptedInferenceClient(["hi"]).generate("hello")
span = made.only_span("chat scripted")
assert span.instrumentation_scope.name == "asimov_sync"
scope = span.instrumentation_scope
print(scope.version, scope.schema_url, sorted(made.metrics()))
"""
PROVIDE = (
    "trace.set_tracer_provider(made.tracer_provider); "
    "metrics.set_meter_provider(made.meter_provider)"
)


@suite
@pytest.mark.parametrize("order", ["providers first", "telemetry first"])
def test_global_providers(order):
    """The global providers are the default, even if they are set after install()."""
    steps = [PROVIDE, "telemetry.install()"]
    output = program(GLOBAL.format("\n".join(steps if order == "providers first" else steps[::-1])))
    version, schema, metrics = output.split(None, 2)
    assert schema == "https://opentelemetry.io/schemas/1.41.0"
    assert "gen_ai.client.token.usage" in metrics


def test_environment_is_read_by_install(monkeypatch):
    """Each install() reads the environment; the import does not."""
    new_exporter = Exported()
    for word in ("", "gen_ai_latest_experimental"):
        monkeypatch.setenv(STABILITY_OPT_IN, word)
        telemetry.install(new_exporter.tracer_provider, new_exporter.meter_provider)
        ScriptedInferenceClient(["hi"]).generate("hello")
    assert {names.V1_41.duration.name, names.LATEST.duration.name} <= set(new_exporter.metrics())


def test_install_replaces():
    """Spans go only to the providers of the last install()."""
    first, second = Exported(), Exported()
    telemetry.install(first.tracer_provider, first.meter_provider)
    telemetry.install(second.tracer_provider, second.meter_provider)
    run_one()
    assert (len(first.spans), len(second.spans)) == (0, 2)


def test_install_twice(caplog):
    """Installing the same providers again logs nothing and counts nothing twice."""
    new_exporter = Exported()
    for _ in range(2):
        telemetry.install(new_exporter.tracer_provider, new_exporter.meter_provider)
    ScriptedInferenceClient(["hi"]).generate("hello")
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert len(new_exporter.spans) == 1
    assert [point.count for point in new_exporter.points(names.V1_41.duration.name)] == [1]


def test_uninstall():
    """uninstall() stops all recording, and may be called again."""
    new_exporter = Exported()
    telemetry.install(new_exporter.tracer_provider, new_exporter.meter_provider)
    telemetry.uninstall()
    telemetry.uninstall()
    run_one()
    ScriptedInferenceClient(["hi"]).generate("hello")
    assert not new_exporter.spans and not new_exporter.metrics()


def test_operations_in_progress():
    """Runs and streams keep the instrumentation, or the lack of it, that they started with."""
    new_exporter = Exported()
    open_stream = ScriptedInferenceClient(["a b c"]).stream("hello")
    telemetry.install(new_exporter.tracer_provider, new_exporter.meter_provider)
    list(open_stream)
    stream = ScriptedInferenceClient(["a b c"]).stream("hello")

    def work(task, context):
        telemetry.uninstall()

    run_one(work)
    list(stream)
    assert new_exporter.paths() == [
        "/chat scripted",
        "/invoke_workflow one",
        "/invoke_workflow one/task work",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork():
    """Telemetry stays installed in a forked child, even with operations in progress."""
    new_exporter = Exported()
    telemetry.install(new_exporter.tracer_provider, new_exporter.meter_provider)
    stream = ScriptedInferenceClient(["a b c"]).stream("hello")
    next(stream)

    def child():
        new_exporter.exporter.clear()
        run_one()
        assert new_exporter.paths() == ["/invoke_workflow one", "/invoke_workflow one/task work"]

    in_child(child)
    list(stream)


def fail_at_start(*about):
    raise OSError("begin")


def fail_at_end(*about):
    def on_end(result, error, chunk_times):
        raise OSError("end")

    return on_end


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word.upper()


def model(body):
    return "found" if tool_results(body) else calls(("look_up", {"word": "one"}))


@pytest.mark.parametrize("hook", [fail_at_start, fail_at_end])
@pytest.mark.parametrize("max_workers", [0, 4])
def test_failing_hooks(hook, max_workers, caplog):
    """A failing hook changes no outcome and is logged once."""
    instrumentation.install(Instrumentation(hook, hook, hook, hook, hook))
    agent = Agent(ScriptedInferenceClient(model), tools=[look_up])
    graph = TaskGraph()
    graph.add(Task(type="ask", objective="what?"), name="ask")
    with TaskScheduler({"ask": agent}, max_workers=max_workers) as scheduler:
        with caplog.at_level(logging.ERROR):
            assert scheduler.run(graph).results == {"ask": "found"}
            assert [event.type for event in scheduler.stream(graph)][-1] == "run_finished"
            stream = agent.stream("what?")
            assert [event.type for event in stream][-1] == "tool_run_done"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        "an instrumentation hook failed; the operation continues, "
        "and further failures of hooks are not logged"
    ]


def test_end_is_reported_once():
    """Only the first end of an operation calls the hook."""
    output = []
    watch = instrumentation.Observation(
        lambda *about: lambda *end: output.append((about, end)), "it"
    )
    watch.end("came")
    watch.end("came later")
    assert output == [(("it",), ("came", None, []))]
