"""The command on a terminal: colours, widths, and questions to the person."""

import io
import json
import re
import sys

import pytest

from asimov_sync import Agent, Task, TaskGraph, tool
from asimov_sync.cli import demo
from asimov_sync.cli.main import main
from asimov_sync.cli.output import Output
from asimov_sync.cli.text import width_of
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..tiers import soak, suite
from .terminal import open_terminal


def park(scheduler, run_id, name, type):
    def ask(task, context):
        return context.wait_for(name, prompt="How many?", type=type)

    graph = TaskGraph()
    graph.add(ask, name="ask")
    assert scheduler.run(graph, run_id=run_id).waiting
    return graph


class Screen(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    "variables, colours",
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_a_table(monkeypatch, variables, colours):
    """A table on a terminal is cut to its width. It has colours, if they are wanted."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in dict({"COLUMNS": "80", "TERM": "xterm"}, **variables).items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    output = Output(screen)
    output.table(["RUN", "STATUS", "ERROR"], [["r" * 90, "failed", "日本\x1b[2J" * 40]], ["red"])
    text = screen.getvalue()
    assert ("\x1b[31mfailed\x1b[0m" in text) == colours
    plain = re.sub(r"\x1b\[\d+m", "", text) if colours else text
    assert "\x1b" not in plain
    header, row = plain.splitlines()
    assert width_of(row) in (79, 80) and row.count("…") == 2 and header.startswith("RUN  ")


@soak
def test_colours_and_widths(scheduler, folder):
    """On a terminal, a table is as wide as it, and statuses have colours."""

    def broken(task, context):
        raise LookupError("日本" * 200)

    graph = TaskGraph()
    graph.add(broken, name="n" * 90)
    scheduler.run(graph, run_id="r" * 90)
    with open_terminal(folder, "runs", "--cache", "runs.db", columns=80) as terminal:
        assert terminal.wait() == 0
    assert "\x1b[31mfailed\x1b[0m" in terminal.text
    plain = re.sub(r"\x1b\[\d+m", "", terminal.text)
    for line in plain.splitlines():
        assert len(line) + len(re.findall("[日本]", line)) <= 80
    assert "…" in plain


@soak
def test_no_colours(scheduler, folder):
    """With NO_COLOR, nothing is coloured."""
    park(scheduler, "r", "count", int)
    with open_terminal(folder, "runs", "--cache", "runs.db", NO_COLOR="1") as terminal:
        assert terminal.wait() == 0
    assert "\x1b" not in terminal.text


@soak
def test_questions(scheduler, folder):
    """Without a value, the person is asked until the answer fits."""
    graph = park(scheduler, "r", "count", int)
    with open_terminal(folder, "answer", "r", "--cache", "runs.db") as terminal:
        terminal.expect("How many?")
        terminal.expect("your answer: ")
        terminal.type("many\n")
        terminal.expect("does not fit")
        terminal.expect("your answer: ")
        terminal.type("5\n")
        assert terminal.wait() == 0
    assert scheduler.run(graph, run_id="r")["ask"] == 5


@soak
def test_leaving(scheduler, folder):
    """Ctrl-D leaves without an answer: the status is 3."""
    park(scheduler, "r", "count", int)
    with open_terminal(folder, "answer", "r", "--cache", "runs.db") as terminal:
        terminal.expect("your answer: ")
        terminal.type("\x04")
        assert terminal.wait() == 3


@soak
def test_approvals(scheduler, folder):
    """Calls are shown with their arguments, and a refusal with a reason or a Ctrl-C is possible."""

    @tool(requires_approval=True)
    def pay(amount: int) -> str:
        """Pay."""
        return "paid"

    client = ScriptedInferenceClient([calls(("pay", {"amount": 500})), "Done."])
    scheduler.handlers["clerk"] = Agent(client, tools=[pay])
    graph = TaskGraph()
    graph.add(Task(type="clerk", objective="Pay."), name="clerk")
    assert scheduler.run(graph, run_id="r").waiting
    arguments = ["approve", "r", "--cache", "runs.db"]
    with open_terminal(folder, *arguments, NO_COLOR="1") as terminal:
        terminal.expect("amount  500")
        terminal.expect("[e]dit the arguments: ")
        terminal.type("\x03")
        assert terminal.wait() == 130
    with open_terminal(folder, *arguments) as terminal:
        terminal.expect("approve? ")
        terminal.type("n\n")
        terminal.expect("reason")
        terminal.type("Too much.\n")
        terminal.expect("refused")
        assert terminal.wait() == 0
    assert scheduler.run(graph, run_id="r")["clerk"] == "Done."
    assert "Too much." in json.dumps(client.requests[-1])


# The demo


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(demo, "SECONDS", 0.0)


@suite
def test_the_demo(command, quick, folder):
    """The demo runs without a key and a terminal, and leaves a run to look at."""
    status, out, err = command("demo", "--cache", "demo.db")
    assert (status, err) == (0, "")
    assert "The run is parked" in out and "“Bees, tides and bread” is published" in out
    lines = re.findall(r"^  asimov-sync (.*)", out, re.M)
    assert lines.pop() == "serve --cache demo.db"
    for line in lines:
        assert command(*line.split())[0] == 0
    assert command("demo", "--cache", "demo.db")[0] == 0  # anew


@soak
def test_an_interrupted_demo(folder):
    """Ctrl-C interrupts the demo. The command that is printed continues it."""
    with open_terminal(folder, "demo", "--cache", "demo.db") as terminal:
        terminal.expect("read[bees]")
        terminal.expect("complete after")
        terminal.type("\x03")
        terminal.expect("interrupted. To continue: asimov-sync demo --cache demo.db")
        assert terminal.wait() == 130
    with open_terminal(folder, "demo", "--cache", "demo.db") as terminal:
        terminal.expect("had ended before")
        terminal.expect("approve? ")
        terminal.type("y\n")
        terminal.expect("is published, with 3 sections.")
        assert terminal.wait() == 0


@suite
def test_a_narrow_list(command, scheduler, monkeypatch):
    """On a narrow terminal, a list of runs has fewer columns, and the ids of runs are complete."""
    park(scheduler, "a-run-with-a-long-id-" + "x" * 10, "count", int)
    monkeypatch.setenv("COLUMNS", "60")
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["runs"]) == 0
    header, row = screen.getvalue().splitlines()
    assert header.split() == ["RUN", "STATUS", "CREATED"]
    assert row.split()[0] == "a-run-with-a-long-id-" + "x" * 10 and len(row) <= 60
