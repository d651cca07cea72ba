"""Kill a process in the middle of its work, and continue the work in another process.

    python examples/durable_report.py

A driver process writes a report: an agent summarizes five topics, one after the other. This process
follows the run in a SQLite file, kills the driver with SIGKILL after the second summary, and
continues the run itself. No summary that is stored is made again. Then the run waits for
permission to publish, which this process gives. The agent's model is a stand-in.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, Optional

from asimov_sync import (
    Agent,
    RunFinished,
    RunStarted,
    RunStore,
    SQLiteCache,
    Task,
    TaskContext,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.testing import ScriptedInferenceClient, last_text

RUN_ID = "report-42"
TOPICS = ["bees", "trains", "tides", "clocks", "bread"]


def model(body: Dict[str, Any]) -> str:
    """Answer like a model, which takes some time."""
    topic = re.findall(r"Summarize (\w+)", last_text(body))[0]
    say(f"a request to the model about {topic}")
    time.sleep(0.05)
    return f"All there is to know about {topic}."


def say(text: str) -> None:
    """Print a line that begins with the process id."""
    # One call, so that the lines of two threads do not mix.
    sys.stdout.write(f"[process {os.getpid()}] {text}\n")
    sys.stdout.flush()


def publish(task: Task, context: TaskContext) -> List[str]:
    """Publish the summaries, if somebody agrees."""
    if not context.wait_for("agreed", prompt="Publish the report?", type=bool):
        return []
    context.step("publish", say, f"published, with the key {context.idempotency_key}")
    return list(context.inputs.values())


def build_report(topics: List[str]) -> TaskGraph:
    """Return the graph: a summary for each topic, one after the other, and the publication."""
    graph = TaskGraph()
    for number, topic in enumerate(topics):
        before = topics[number - 1 : number] if number else []
        graph.add(
            Task(type="summarize", objective=f"Summarize {topic}"), name=topic, depends_on=before
        )
    graph.add(Task(type="publish"), name="publish", depends_on=topics)
    return graph


def open_scheduler(path: str) -> TaskScheduler:
    """Return a scheduler whose runs are in a file. Each process makes its own."""
    agent = Agent(ScriptedInferenceClient(model), system="You are brief.")
    scheduler = TaskScheduler(
        {"summarize": agent, "publish": publish}, runs=RunStore(SQLiteCache(path))
    )
    scheduler.flow("report")(build_report)
    return scheduler


def drive(path: str) -> None:
    """Run the report in this process. This is the driver that is killed."""
    with open_scheduler(path) as scheduler:
        scheduler.run("report", args={"topics": TOPICS}, run_id=RUN_ID)


def kill_a_driver(path: str, store: RunStore) -> None:
    """Start a driver, follow its run, and kill it after the second summary."""
    driver = subprocess.Popen([sys.executable, __file__, "--driver", path])
    try:
        while not store.list():
            if driver.poll() is not None:
                raise RuntimeError("the driver has ended without a run")
            time.sleep(0.01)
        finished = 0
        for event in store.events(RUN_ID):
            finished += event["type"] == "task_finished"
            if finished == 2:
                break
    finally:
        driver.kill()
        driver.wait()
    stored = ", ".join(store.result(RUN_ID).results)
    say(f"killed process {driver.pid}; these are stored: {stored}")


def continue_run(scheduler: TaskScheduler) -> None:
    """Continue the run, and print what is not run again."""
    for event in scheduler.stream("report", args={"topics": TOPICS}, run_id=RUN_ID):
        if isinstance(event, RunStarted):
            say(f"continued; not run again: {', '.join(event.restored)}")
        elif isinstance(event, RunFinished):
            say(f"the run is {event.result.status.value}")


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="durable_report.py", description="Kill a driver, and continue its run."
    )
    parser.add_argument("--driver", metavar="FILE", help="be the driver, with runs in this file")
    options = parser.parse_args(arguments)
    if options.driver is not None:
        drive(options.driver)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder, "runs.db"))
        store = RunStore(SQLiteCache(path))
        with open_scheduler(path) as scheduler:
            kill_a_driver(path, store)
            continue_run(scheduler)
            (wait,) = store.waits()
            say(f"{wait.task} waits: {wait.prompt} The answer is yes")
            store.answer(RUN_ID, wait.name, True, by="you")
            result = scheduler.resume(RUN_ID)
    print("\n".join(result["publish"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
