"""Handlers that dask's workers import, and a graph that has a bit of everything."""

import os
import pathlib
import time

from tenacity import wait_none

from asimov_sync import Agent, Budget, Retry, Task, TaskGraph, TaskScheduler, current_context, tool
from asimov_sync.testing import ScriptedInferenceClient, calls, tool_results

from ..graph import remote_handlers
from ..graph.remote_handlers import double

HOLD_SECONDS = 60.0
"""The seconds after which a handler that is held fails."""


@tool
def measure(city: str) -> int:
    """Return the temperature of a city.

    city: its name.
    """
    return len(city) if current_context().name == "agent" else -1


def answer(body):
    """Call the tool, and then answer with its result."""
    results = tool_results(body)
    return f"{results['measure']} degrees" if results else calls(("measure", {"city": "Oslo"}))


research = Agent(ScriptedInferenceClient(answer), tools=[measure])


def nest(task, context):
    """Run another graph, on threads of the worker."""
    graph = TaskGraph()
    graph.map(double, [1, 2], name="inner")
    with TaskScheduler() as scheduler:
        return scheduler.run(graph).results


def hold(task, context):
    """Note the process, and wait for a file. Return the process id."""
    folder = pathlib.Path(task.params["folder"])
    note(folder, f"start {os.getpid()} {context.attempt}")
    end = time.monotonic() + HOLD_SECONDS
    while not (folder / "release").exists():
        assert time.monotonic() < end, "a test has failed, and left this handler alone"
        time.sleep(0.01)
    note(folder, f"end {os.getpid()} {context.attempt}")
    return os.getpid()


def note(folder, line):
    """Append a line to the log in a folder."""
    file = os.open(str(folder / "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def notes(folder, what):
    """Return the process ids of the lines of the log."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [int(pid) for one, pid, attempt in lines if one == what]


HANDLERS = dict(
    remote_handlers.HANDLERS, nest=nest, hold=hold, ask="tests.engines.dask_handlers:research"
)


def build_everything():
    """Return a graph with each kind of outcome."""
    graph = TaskGraph()

    def add(type, name, *depends_on, **options):
        graph.add(Task(type=type, objective=name), name=name, depends_on=depends_on, **options)

    items = graph.map(double, [1, 2, 3], name="item")
    graph.with_options(name="total").call(sum, items)
    add("fail_once", "retried", retry=Retry(2, wait=wait_none()))
    add("fail_once", "broken")
    add("echo", "hopeless", "broken")
    add("echo", "mourner", "broken", allow_failure=True)
    add("partial", "half")
    add("see_feedback", "start")
    add("go_back_once", "back", "start")
    add("report", "report")
    add("spawn", "spawner")
    add("echo", "never", when=lambda inputs: False)
    add("echo", "loud", middleware=[remote_handlers.shout])
    add("wait_for_cancel", "slow", timeout=0.5)
    add("ask", "agent")
    add("nest", "nested")
    return graph


def run_everything(scheduler):
    """Run the graph. Return what must be the same on every engine."""
    budget = Budget(requests=100)
    graph, events = build_everything(), []
    with scheduler.stream(graph, budget=budget) as stream:
        for event in stream:
            events.append(event)
    result = events[-1].result
    texts = {}
    for event in events:
        if event.type == "task_text":
            texts[event.name] = texts.get(event.name, "") + event.text
    return {
        "status": result.status,
        "results": dict(result.results),
        "statuses": {name: task.status for name, task in result.tasks.items()},
        "errors": dict(result.errors),
        "exceptions": {name: type(one).__name__ for name, one in result.exceptions.items()},
        "skipped": dict(result.skipped),
        "usages": dict(result.usages),
        "usage": result.usage,
        "spent": budget.spent,
        "texts": texts,
        "events": sorted(
            (event.type, event.name, event.attempt, event.visit)
            for event in events
            if event.type not in ("run_started", "run_finished", "task_text")
        ),
    }
