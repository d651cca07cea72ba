"""`asimov-sync run`, `graph` and `report`."""

import json
import re
import signal

import pytest

from asimov_sync import RunStatus, RunStore, SQLiteCache
from asimov_sync.cli.main import main

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, wait_for
from .programs import start_command

MODULE = '''\
"""Flows, graphs and functions."""

import pathlib
from typing import Optional

from asimov_sync import RunStore, SQLiteCache, Task, TaskGraph, TaskScheduler

scheduler = TaskScheduler(runs=RunStore(SQLiteCache("own.db", synchronous="normal")))


def shout(text):
    if text == "fail":
        raise LookupError("\\x1b[2J no text")
    return text.upper()


def measure(text):
    return {"length": len(text)}


@scheduler.handler("ask")
def ask(task, context):
    return context.wait_for("agreed", prompt="Ship it?", type=bool)


@scheduler.handler("hang")
def hang(task, context):
    pathlib.Path("started").touch()
    while not pathlib.Path("release").exists():
        context.cancellation.wait(0.02)
        context.cancellation.raise_if_cancelled()
    return "released"


@scheduler.flow("report")
def report(text: str = "bees", count: Optional[int] = None):
    graph = TaskGraph()
    graph.call(measure, graph.call(shout, text))
    return graph


@scheduler.flow("daily report")
def _named_otherwise():
    return report("daily")


@scheduler.flow("order")
def order():
    graph = TaskGraph()
    graph.add(Task(type="ask"), name="order")
    return graph


@scheduler.flow("long")
def long():
    graph = TaskGraph()
    graph.add(Task(type="hang"), name="hang")
    return graph


def broken(text: str):
    raise RuntimeError(text)


def no_graph():
    return 7
'''

GRAPH = '''\
"""A graph without a scheduler."""

from asimov_sync import TaskGraph

graph = TaskGraph()
first = graph.call(str.upper, "a")
graph.call(len, first)
graph.call(str.lower, first)
'''


@pytest.fixture
def module(write_module):
    """The name of the module with the flows."""
    return write_module(MODULE)


@pytest.fixture
def run(command, monkeypatch):
    """The command without a store from the environment."""
    monkeypatch.delenv("ASIMOV_CACHE")
    return command


def test_a_flow(run, module):
    """A flow is run by its scheduler, and the result of its only last task is printed alone."""
    assert run("run", f"{module}:report", "--run-id", "r") == (0, '{"length": 4}\n', "")
    store = ["--scheduler", f"{module}:scheduler"]
    assert run("run", f"{module}:report", "--run-id", "r", "--arg", "text=bees")[0] == 0
    run("run", f"{module}:daily report", "--run-id", "d", "--tag", "tenant=7")
    (run_d, run_r) = json.loads(run("runs", "--json", *store)[1])
    assert (run_d["flow"], run_d["tags"]) == ("daily report", {"tenant": "7"})
    assert (run_r["run_id"], run_r["flow"], run_r["args"]) == ("r", "report", {})


def test_a_run_without_an_id_gets_one(run, module):
    """With a store, a run without --run-id is durable, under the name of its flow and the time."""
    assert run("run", f"{module}:report")[0] == 0
    (made,) = json.loads(run("runs", "--json", "--cache", "own.db")[1])
    assert re.match(r"report-\d{8}-\d{6}-[0-9a-f]{4}\Z", made["run_id"])


@pytest.mark.parametrize(
    "arguments, shown",
    [
        (["--arg", "text=12"], {"text": "12"}),
        (["--arg", "text=a=b", "--arg", "count=3"], {"text": "a=b", "count": 3}),
        (["--arg", "count=null"], {"count": None}),
    ],
)
def test_arguments(run, module, arguments, shown):
    """--arg is a text where the function says str, otherwise JSON if it can be."""
    assert run("run", f"{module}:report", "--run-id", "r", *arguments)[0] == 0
    shown_run = json.loads(run("show", "r", "--json", "--cache", "own.db")[1])
    assert shown_run["args"] == shown


@suite
@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["{}:absent"], 2, "has no 'absent'"),
        (["{}:"], 2, "does not name a graph or a flow"),
        (["{}:scheduler"], 2, "not a flow, a TaskGraph or a function"),
        (["{}:report", "--arg", "nix=1"], 2, "unexpected keyword argument 'nix'"),
        (["{}:broken"], 2, "missing a required argument: 'text'"),
        (["{}:no_graph"], 2, "no_graph returned 7, not a TaskGraph"),
        (["{}:report", "--cache", "runs.db"], 2, "--cache is for a graph without a scheduler"),
        (["{}:report", "--run-id", "a b"], 2, "the run_id of a durable run has"),
        (["{}:report", "--arg", "text"], 2, "name=value"),
    ],
)
def test_wrong_arguments(run, module, arguments, status, message):
    """Wrong arguments are one message."""
    given, out, err = run("run", *[one.format(module) for one in arguments])
    assert (given, out) == (status, "") and message in err


def test_a_function_that_raises(capsys, folder, module, monkeypatch):
    """The traceback of a function that cannot build its graph begins with its own frame."""
    assert main(["run", f"{module}:broken", "--arg", "text=why"]) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: why" in err and "asimov_sync/" not in err
    assert "the graph could not be built" in err


def test_a_failure(capsys, folder, module):
    """Failed tasks are a table on stdout, and their tracebacks on stderr. The status is 1."""
    assert main(["run", f"{module}:report", "--arg", "text=fail", "--run-id", "r"]) == 1
    out, err = capsys.readouterr()
    assert "shout    failed   LookupError: \\x1b[2J no text\n" in out
    assert "measure  skipped  its dependency 'shout' failed\n" in out
    assert "--run-id r --arg text=fail --retry-failed" in out
    assert "LookupError: \\x1b[2J no text" in err and "asimov_sync/" not in err
    assert "\x1b" not in out + err


@suite
def test_a_parked_run(run, module):
    """A parked run gives status 3, and prints what to type; these commands continue it."""
    status, out, _ = run("run", f"{module}:order", "--run-id", "o")
    assert status == 3
    answer = re.search(r"to answer  asimov-sync (.*)\n", out).group(1)
    again = re.search(r"then continue it: asimov-sync (.*)\n", out).group(1)
    assert run(*answer.split())[0] == 0
    assert run(*again.split()) == (0, "true\n", "")
    assert json.loads(run("run", f"{module}:order", "--run-id", "o", "--json")[1])["results"] == {
        "order": True
    }


@suite
def test_a_graph(run, write_module, monkeypatch):
    """A graph needs no scheduler. The results of several last tasks have their names."""
    name = write_module(GRAPH)
    status, out, _ = run("run", f"{name}:graph")
    assert (status, out) == (0, "len    1\nlower  a\n")
    status, _, err = run("run", f"{name}:graph", "--run-id", "r")
    assert status == 2 and "--run-id needs a store" in err
    assert run("run", f"{name}:graph", "--run-id", "r", "--cache", "new.db")[0] == 0
    monkeypatch.setenv("ASIMOV_CACHE", "new.db")
    assert run("show", "r")[0] == 0
    assert run("run", f"{name}:graph", "--run-id", "r", "--restart")[0] == 0
    assert run("run", f"{name}:graph", "--arg", "a=1")[0] == 2


@suite
def test_many_results(run, write_module, capsys):
    """Of many results, the first ones are printed."""
    name = write_module(
        "from asimov_sync import TaskGraph\n"
        "graph = TaskGraph()\n"
        "graph.map(lambda item: 1 // (item - 60), range(130), name='map')\n"
    )
    status, out, _ = run("run", f"{name}:graph", "--json")
    assert status == 1 and len(json.loads(out)["results"]) == 129
    assert main(["run", f"{name}:graph"]) == 1
    out = capsys.readouterr().out
    assert out.count("map[") == 51 and "\n79 more results; --json has all of them\n" in out


@suite
def test_pictures(run, module, folder):
    """A graph is drawn as Mermaid or SVG without running it, and a run as a report."""
    status, out, _ = run("graph", f"{module}:report", "--arg", "text=fail")
    assert status == 0 and out.startswith("flowchart ") and "shout" in out
    assert run("graph", f"{module}:report", "--svg", "graph.svg")[0] == 0
    assert folder.joinpath("graph.svg").read_text(encoding="utf-8").startswith("<svg")
    assert run("graph", f"{module}:report", "--svg", "absent/graph.svg")[0] == 1
    assert run("run", f"{module}:report", "--run-id", "r")[0] == 0
    assert run("report", "r", "--cache", "own.db")[0] == 0
    assert "<!DOCTYPE html>" in folder.joinpath("r.html").read_text(encoding="utf-8")
    assert run("report", "r", "--cache", "own.db", "-o", "absent/r.html")[0] == 1


@suite
@pytest.mark.parametrize(
    "number, status",
    by_tier(
        [(signal.SIGINT, 130)],
        soak=[(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ),
)
def test_signals(run, folder, module, number, status):
    """A signal interrupts a durable run at once, and the command that continues it is printed."""
    with start_command(folder, "run", f"{module}:long", "--run-id", "r") as process:
        wait_for(folder.joinpath("started").exists, "the task")
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (status, "")
    assert "Traceback" not in err
    assert f"to continue the run: asimov-sync run {module}:long --run-id r\n" in err
    store = RunStore(SQLiteCache("own.db"))
    assert store.get("r").status is RunStatus.INTERRUPTED
    folder.joinpath("release").touch()
    assert run("run", f"{module}:long", "--run-id", "r") == (0, "released\n", "")
