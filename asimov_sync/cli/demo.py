"""`asimov-sync demo`: a durable run, step by step, without a key."""

import argparse
import logging
import os
import re
import tempfile
from typing import Any, Dict, List

from asimov_sync.agents.agent import Agent
from asimov_sync.cancellation import Cancellation
from asimov_sync.cli.approve import decide_calls
from asimov_sync.cli.ask import Decided, can_ask
from asimov_sync.cli.command import Command
from asimov_sync.cli.events import EventPrinter
from asimov_sync.cli.exit_status import INTERRUPTED, PARKED
from asimov_sync.cli.logs import show_log
from asimov_sync.cli.output import Output
from asimov_sync.cli.run import exit_status_of, print_result
from asimov_sync.cli.store import format_command, open_cache
from asimov_sync.graph.context import TaskContext
from asimov_sync.graph.events import RunFinished
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.inference.tools.tool import tool
from asimov_sync.runs.status import ENDED
from asimov_sync.runs.store import RunStore
from asimov_sync.scheduler import TaskScheduler
from asimov_sync.tasks import Task, TaskStatus
from asimov_sync.testing import ScriptedInferenceClient, calls, last_text

__all__ = ["COMMAND", "SECONDS"]

RUN_ID = "demo"
SECONDS = 0.5
"""The time that a step of the demo takes, in seconds."""

TOPICS = ("bees", "tides", "bread")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--cache",
        metavar="PATH|URL",
        help="where to keep the run; by default a SQLite file in a new temporary folder",
    )


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    if options.cache is None:
        folder = tempfile.mkdtemp(prefix="asimov-sync-demo-")
        options.cache = os.path.join(folder, "runs.db")
    options.scheduler = None
    store = RunStore(open_cache(options.cache, must_exist=False))
    output.line("A run reads three pages, has a model digest each, and publishes a report.")
    output.line(f"It is kept in {options.cache}\n", "dim")
    show_log(logging.WARNING)
    scheduler = TaskScheduler({"publish": _make_publisher()}, runs=store)
    try:
        result = _drive(scheduler, store, output)
        if result.status is TaskStatus.WAITING:
            if not _approve(options, output):
                output.line("\nthe run waits. To go on:", "dim")
                output.line("  " + format_command(options, "demo"), "bold")
                return PARKED
            result = _drive(scheduler, store, output)
    except (KeyboardInterrupt, SystemExit):
        output.line(f"\ninterrupted. To continue: {format_command(options, 'demo')}")
        raise
    finally:
        scheduler.close()
    output.line()
    print_result(result, output)
    output.line("\nWhat to try next:", "dim")
    for words in (
        ["show", RUN_ID],
        ["watch", RUN_ID],
        ["report", RUN_ID, "-o", "demo.html"],
        ["serve"],
    ):
        output.line("  " + format_command(options, *words))
    return exit_status_of(result)


def _drive(scheduler: TaskScheduler, store: RunStore, output: Output) -> RunResult:
    """Run the graph, or continue it, and print its events."""
    printer = EventPrinter(output)
    restart = any(record.run_id == RUN_ID for record in store.list(status=ENDED))
    with scheduler.stream(_build_graph(), run_id=RUN_ID, restart=restart) as events:
        for event in events:
            values = event.to_dict()
            if isinstance(event, RunFinished):
                result = event.result
                status = "parked" if result.waiting else result.status.value
                values.update(status=status, reason=result.reason)
            printer.print(values)
    return result


def _approve(options: argparse.Namespace, output: Output) -> bool:
    """Have the person decide about the publication. Return whether there is a decision."""
    store = RunStore(open_cache(options.cache))
    (wait,) = store.waits(RUN_ID)
    output.line("\nThe run is parked: no process has to exist until a person decides.\n")
    decided = None if can_ask(output) else Decided(True)
    if decided is not None:
        command = format_command(options, "approve", RUN_ID, wait.name, "--yes")
        output.line(f"Nobody is at a terminal, so: {command}\n")
    if not decide_calls(store, [wait], decided, None, output):
        return False
    output.line()
    return True


# The graph


def _build_graph() -> TaskGraph:
    graph = TaskGraph("demo")
    pages = graph.map(read_page, TOPICS, name="read", key=str)
    digests = graph.map(digest_page, pages, name="digest", key=_topic_of)
    graph.add(
        Task(type="publish", objective="Publish a report."), name="publish", depends_on="digest"
    )
    assert len(digests) == len(TOPICS)
    return graph


def read_page(task: Task, context: TaskContext) -> str:
    """Read a page, which takes some time."""
    topic = task.params["item"]
    steps = 2 + TOPICS.index(topic)
    for step in range(1, steps):
        _wait()
        context.report(step / steps, f"page {step} of {steps}")
    return f"There are {3 * steps} things to know about {topic}."


def digest_page(page: str) -> str:
    """Have the model digest a page."""
    return ScriptedInferenceClient(_reply).generate(f"Digest: {page}").text


def _topic_of(task: Task) -> str:
    return str(task.params["item"])


def _make_publisher() -> Agent:
    @tool(requires_approval=True)
    def publish(title: str, sections: int) -> str:
        """Publish the report.

        title: the title of the report.
        sections: the number of its sections.
        """
        return f"“{title}” is published, with {sections} sections."

    return Agent(ScriptedInferenceClient(_reply), tools=[publish], system="You publish reports.")


def _reply(body: Dict[str, Any]) -> Any:
    """Answer a request as a model would, which takes some time."""
    _wait()
    content = body["messages"][-1]["content"]
    blocks: List[Dict[str, Any]] = content if isinstance(content, list) else []
    results = [str(block["content"]) for block in blocks if block.get("type") == "tool_result"]
    if results:
        return results[0]
    digest = re.search(r"Digest: There are (\d+) things to know about (\w+)", last_text(body))
    if digest:
        return f"{digest.group(2).capitalize()}: {digest.group(1)} things, in one line."
    return calls(("publish", {"title": "Bees, tides and bread", "sections": len(TOPICS)}))


def _wait() -> None:
    token = Cancellation.current()
    token.wait(SECONDS)
    token.raise_if_cancelled()


COMMAND = Command(
    "Show a durable run, without a key: its model is a stand-in on this machine. The run waits\n"
    "for your approval before it publishes. Press Ctrl-C at any time, and continue it with the\n"
    "command that is printed.",
    ["demo", "demo --cache runs.db"],
    {
        PARKED: "nothing was decided: the run waits",
        INTERRUPTED: "Ctrl-C; how to continue is printed",
    },
    add_arguments,
    execute,
)
