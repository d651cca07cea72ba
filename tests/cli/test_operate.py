"""Listing, showing, answering, approving, cancelling, retrying and deleting stored runs."""

import datetime
import json
import re
import shlex
import threading
import time
from typing import List, Optional, Union

import pytest

from asimov_sync import Agent, LeaseLost, RunStatus, Task, TaskGraph, tool
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..tiers import suite
from ..waiting import DEADLINE


def park(scheduler, run_id, *waits, **options):
    """Start a run whose tasks wait: each for a name and a type, with the name of the wait as its
    own name unless there is a third element."""
    graph = TaskGraph()
    for name, type, *task in waits:

        def ask(task, context, name=name, type=type):
            return context.wait_for(name, prompt=f"{name}?", data={"for": name}, type=type)

        graph.add(ask, name=task[0] if task else name)
    assert scheduler.run(graph, run_id=run_id, **options).waiting
    return graph


def fail(scheduler, run_id, **options):
    """Run a graph of which one task fails."""

    def broken(count):
        raise LookupError("\x1b[2J no page")

    graph = TaskGraph("failing")
    graph.call(broken, graph.call(len, "four"))
    result = scheduler.run(graph, run_id=run_id, **options)
    assert result.status == "partial"
    return graph


@pytest.fixture
def payment(scheduler):
    """A run, "payment", whose agent waits for approval of a call of a tool; with what was paid."""
    paid = []

    @tool(requires_approval=True)
    def pay(amount: int, to: str) -> str:
        """Pay an amount."""
        paid.append((amount, to))
        return "paid"

    client = ScriptedInferenceClient([calls(("pay", {"amount": 500, "to": "eve\x1b[2J"})), "Done."])
    graph = TaskGraph()
    scheduler.handlers["clerk"] = Agent(client, tools=[pay])
    graph.add(Task(type="clerk", objective="Pay Eve."), name="clerk")
    (call_id,) = scheduler.run(graph, run_id="payment").waiting["clerk"]
    return call_id, paid, lambda: scheduler.run(graph, run_id="payment")


# Lists


def test_an_empty_store(command, store, scheduler):
    """An empty store is explained; without a match, the number of stored runs is printed."""
    park(scheduler, "r", ("w", None))
    status, out, _ = command("runs", "--status", "failed")
    assert (status, out) == (0, "no run matches; the store has 1 run\n")
    store.delete("r")
    status, out, _ = command("runs")
    assert status == 0 and out.startswith("no runs are stored. A run is stored if it has a run_id")


def test_the_table_of_runs(command, scheduler):
    """The newest run is first. A column that would be empty is left out, and nothing is cut."""
    park(scheduler, "parked-1", ("w", None))
    fail(scheduler, "f" * 150)
    status, out, _ = command("runs")
    lines = [line.split() for line in out.splitlines()]
    assert status == 0
    assert lines[0] == ["RUN", "STATUS", "CREATED", "DURATION", "TASKS", "ERROR"]
    assert lines[1][:2] == ["f" * 150, "partial"]
    assert "  1 failed, 1 complete  LookupError: \\x1b[2J no page\n" in out
    assert lines[2][:2] == ["parked-1", "parked"] and lines[2][-2:] == ["1", "parked"]


@suite
def test_filters(command, scheduler):
    """Runs are selected by status, tags and time, and paged by --limit and --after."""
    for number in range(3):
        park(scheduler, f"r{number}", ("w", None), tags={"tenant": "7", "n": str(number)})
    fail(scheduler, "f", tags={"tenant": "8"})

    def ids(*arguments):
        status, out, _ = command("runs", "--json", *arguments)
        assert status == 0
        return [run["run_id"] for run in json.loads(out)]

    assert ids() == ["f", "r2", "r1", "r0"]
    assert ids("--status", "partial", "--status", "failed") == ["f"]
    assert ids("--tag", "tenant=7", "--tag", "n=1") == ["r1"]
    assert ids("--since", "1h") == ids("--until", "2999-01-01") == ids()
    assert ids("--until", "1h") == ids("--since", "2999-01-01T10:00:00Z") == []
    assert ids("--limit", "2", "--after", "r2") == ["r1", "r0"]
    status, out, _ = command("runs", "--limit", "2", "--cache", "runs.db")
    assert "older runs: asimov-sync runs --limit 2 --after r2 --cache runs.db\n" in out
    filters = ["--tag", "tenant=7", "--since", "1h", "--status", "parked", "--limit", "1"]
    out = command("runs", *filters)[1]
    (rest,) = re.findall("older runs: asimov-sync (.*)", out)
    assert command(*shlex.split(rest))[1].splitlines()[1].startswith("r1 ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--status", "late"],
        ["--tag", "tenant"],
        ["--since", "yesterday"],
        ["--since", "999999999999999h"],
        ["--limit", "0"],
    ],
)
def test_wrong_filters(command, arguments):
    """A filter of another form is an error of usage, which names the option."""
    status, out, err = command("runs", *arguments)
    assert (status, out) == (2, "") and arguments[0] in err


def test_the_json_of_a_run(command, scheduler, store):
    """The documented fields of --json, with times in UTC."""
    fail(scheduler, "r", tags={"tenant": "7"})
    run = json.loads(command("show", "r", "--json")[1])
    (listed,) = json.loads(command("runs", "--json")[1])
    assert {name: run[name] for name in listed if name != "tasks"} == listed
    assert set(run) - set(listed) == {"tasks", "waits"}
    created = run.pop("created")
    assert datetime.datetime.fromisoformat(created) == store.get("r").created
    assert created.endswith("+00:00")
    assert run["status"] == "partial" and run["tags"] == {"tenant": "7"}
    assert run["counts"] == {"failed": 1, "complete": 1}
    assert run["error"] == "LookupError: \x1b[2J no page"
    task = run["tasks"]["broken"]
    assert task == json.loads(command("show", "r", "broken", "--json")[1])
    assert (task["status"], task["depends_on"], task["attempt"]) == ("failed", ["len"], 1)
    assert task["traceback"].startswith("Traceback") and task["result"] is None
    assert run["tasks"]["len"]["result"] == 4


# One run


def test_show(command, scheduler):
    """A run is shown with its tasks, and with the command for its state."""
    fail(scheduler, "r", tags={"tenant": "7"})
    status, out, _ = command("show", "r", "--utc")
    assert status == 0 and "\x1b" not in out
    assert "tags      tenant=7\n" in out and " UTC\n" in out
    assert "broken  failed" in out and "\\x1b[2J no page" in out
    assert "to run the failed tasks again: asimov-sync retry r\n" in out
    status, out, _ = command("show", "r", "broken")
    assert status == 0 and "\x1b" not in out
    assert "\nTraceback (most recent call last):\n" in out
    status, _, err = command("show", "r", "absent")
    assert status == 4 and "it has 'len', 'broken'" in err


@suite
def test_times(command, scheduler, monkeypatch):
    """Times are local; --utc shows them in UTC."""
    park(scheduler, "r", ("w", None))
    monkeypatch.setenv("TZ", "XYZ-9")  # nine hours ahead of UTC
    time.tzset()
    try:
        local, utc = (command("show", "r", *option)[1] for option in ([], ["--utc"]))
        assert command("runs")[1] != command("runs", "--utc")[1]
        assert command("watch", "r")[1] != command("watch", "r", "--utc")[1]
    finally:
        monkeypatch.undo()
        time.tzset()
    shown = [re.search(r"created   (.*) (XYZ|UTC)\n", out).group(1) for out in (local, utc)]
    moments = [datetime.datetime.strptime(one, "%Y-%m-%d %H:%M:%S") for one in shown]
    assert moments[0] - moments[1] == datetime.timedelta(hours=9)


@suite
def test_show_waits(command, scheduler, payment):
    """The waits of a run are shown, with the commands that answer them."""
    park(scheduler, "r", ("agreed", bool), ("note", str, "one"), ("note", str, "two; rm -rf /"))
    status, out, _ = command("show", "r", "--cache", "runs.db")
    assert status == 0
    assert 'prompt     agreed?\ndata       {"for": "agreed"}\ntype       yes or no\n' in out
    assert "to answer  asimov-sync answer r agreed yes --cache runs.db\n" in out
    assert "asimov-sync answer r note TEXT --task 'two; rm -rf /' --cache runs.db\n" in out
    call_id = payment[0]
    out = command("show", "payment")[1]
    assert "\x1b" not in out and "eve\\x1b[2J" in out
    assert "tool       pay\n  amount   500\n" in out
    assert f"to answer  asimov-sync approve payment {call_id}\n" in out


@pytest.fixture
def running(scheduler):
    """A run in progress: its task waits until it is cancelled."""
    started = threading.Event()

    def wait(task, context):
        started.set()
        context.cancellation.wait()

    graph = TaskGraph()
    graph.add(wait, name="slow")
    run = scheduler.submit(graph, run_id="r")
    assert started.wait(DEADLINE)
    return run


def test_show_a_running_run(command, running):
    """A run in progress is shown with its driver, is not deleted, and is cancelled."""
    out = command("show", "r")[1]
    assert "status    running\n" in out and "unless it renews its lease" in out
    status, _, err = command("delete", "r")
    assert status == 1 and "r is running" in err and "asimov-sync cancel r" in err
    status, out, _ = command("cancel", "r", "--reason", "no need")
    assert (status, out[:20]) == (0, "r is being cancelled")
    assert running.result().reason == "no need"
    assert command("delete", "r") == (0, "r is deleted\n", "")


@suite
def test_delete_a_running_run(command, running):
    """--force deletes a run that has a driver, which notices it."""
    assert command("delete", "--force", "r") == (0, "r is deleted\n", "")
    with pytest.raises(LeaseLost):
        running.result(DEADLINE)


# Answers


VALUES = [
    (str, "true", "true"),
    (str, "5", "5"),
    (str, '"quoted"', '"quoted"'),
    (str, "", ""),
    (bool, "yes", True),
    (bool, "N", False),
    (bool, "false", False),
    (int, "-5", -5),
    (float, "1e3", 1000.0),
    (List[str], '["a"]', ["a"]),
    (Optional[str], "null", None),
    (Optional[str], "nothing", "nothing"),
    (Union[int, str], "5", 5),
    (None, "5", 5),
    (None, "yes", "yes"),
    (None, '"yes"', "yes"),
    (None, "\u202e", "\u202e"),
]
"""Types of waits, texts that a person enters, and the values that are meant."""


def test_values(command, scheduler):
    """A value is read by the type of the wait, and the answer that was stored is printed."""
    waits = [(f"w{number}", type) for number, (type, _, _) in enumerate(VALUES)]
    graph = park(scheduler, "r", *waits)
    for number, (_, text, _) in enumerate(VALUES):
        status, out, err = command("answer", "--by", "ann", "r", f"w{number}", "--", text)
        assert (status, err) == (0, "") and "\u202e" not in out
        assert out.startswith(f"answered w{number} of task w{number} with ")
    results = scheduler.run(graph, run_id="r").results
    assert results == {f"w{number}": value for number, (_, _, value) in enumerate(VALUES)}


@suite
def test_answers_that_do_not_count(command, scheduler):
    """A wrong value, a wrong name and a second answer have a status each, and change nothing."""
    graph = park(scheduler, "r", ("count", int), ("note", str, "one"), ("note", str, "two"))
    assert command("answer", "r", "count", "many")[0] == 2
    status, _, err = command("answer", "r", "cuont", "5")
    assert status == 4 and "waits for no 'cuont'" in err
    status, _, err = command("answer", "r", "note", "x")
    assert status == 2 and "'one', 'two'" in err
    assert command("answer", "r", "note", "x", "--task", "two")[0] == 0
    assert command("answer", "r", "count", "5")[0] == 0
    status, _, err = command("answer", "r", "count", "6")
    assert status == 1 and "the first answer counts" in err
    assert scheduler.run(graph, run_id="r").waiting == {"one": ["note"]}
    assert command("answer", "r", "note", "y")[0] == 0
    assert scheduler.run(graph, run_id="r").results == {"count": 5, "one": "y", "two": "x"}
    assert command("answer", "r", "note", "z")[0] == 4


def test_commands_in_messages(command, scheduler, payment):
    """A command line in a message has the options that name the store."""
    here = ("--cache", "runs.db")
    park(scheduler, "r", ("count", int))
    _, _, err = command("show", "absent", *here)
    assert "`asimov-sync runs --cache runs.db` lists the runs" in err
    shows = "`asimov-sync show {} --cache runs.db` shows what it waits for"
    assert shows.format("r") in command("answer", "r", "cuont", "5", *here)[2]
    assert shows.format("r") in command("approve", "r", "call_1", "--yes", *here)[2]
    (call,) = scheduler.runs.waits("payment")
    _, _, err = command("answer", "payment", call.name, "yes", *here)
    assert f"asimov-sync approve payment {call.name} --cache runs.db\n" in err


def test_without_a_value(command, scheduler):
    """Without a value and a terminal, the questions are shown, and the status is 3."""
    park(scheduler, "r", ("agreed", bool), ("note", str))
    status, out, _ = command("answer", "r")
    assert status == 3
    assert "asimov-sync answer r agreed yes\n" in out and "asimov-sync answer r note TEXT\n" in out
    status, out, _ = command("answer", "r", "note")
    assert status == 3 and "agreed" not in out


# Approvals


def test_approvals_are_shown(command, payment):
    """Without a decision and a terminal, the tool and its arguments are shown; the status is 3."""
    status, out, _ = command("approve", "payment")
    assert status == 3 and "\x1b" not in out
    assert "tool       pay\n  amount   500\n  to       eve\\x1b[2J\n" in out
    status, _, err = command("answer", "payment", payment[0], "yes")
    assert status == 2 and f"asimov-sync approve payment {payment[0]}" in err
    assert command("approve", "payment", "--yes")[0] == 2  # which call?
    assert command("approve", "payment", "toolu_other", "--yes")[0] == 4


def test_approve(command, payment):
    """--yes approves the call as it was shown. The first decision counts."""
    call_id, paid, finish = payment
    status, out, _ = command("approve", "payment", call_id, "--yes")
    assert status == 0 and f"approved {call_id}\n" in out
    assert command("approve", "payment", call_id, "--refuse", "no")[0] == 1
    assert finish().status == "complete" and paid == [(500, "eve\x1b[2J")]
    assert command("approve", "payment", call_id, "--yes")[0] == 4


@suite
def test_approve_other_arguments(command, payment):
    """Edited arguments are validated; the tool is called with them."""
    call_id, paid, finish = payment
    for wrong in ('{"amount": "much", "to": "eve"}', '{"amount": 5}', "[]", "{"):
        assert command("approve", "payment", call_id, "--arguments", wrong)[0] == 2
    arguments = '{"amount": 5, "to": "bob"}'
    assert command("approve", "payment", call_id, "--arguments", arguments)[0] == 0
    assert finish().status == "complete" and paid == [(5, "bob")]


@suite
def test_refuse(command, payment):
    """--refuse refuses the call; the tool is not called."""
    call_id, paid, finish = payment
    status, out, _ = command("approve", "payment", call_id, "--refuse", "Too much.")
    assert status == 0 and f"refused {call_id}\n" in out
    assert finish().status == "complete" and paid == []


# Changes


def test_cancel(command, scheduler, store):
    """A parked run is ended for good. A run that has ended gives status 1."""
    park(scheduler, "r", ("w", None))
    assert command("cancel", "r") == (0, "r is cancelled\n", "")
    assert store.get("r").status is RunStatus.CANCELLED
    assert command("cancel", "r") == (1, "r has ended already: cancelled\n", "")


@suite
def test_retry(command, scheduler, store):
    """Failed tasks run again when the run is continued. Other runs give status 1."""
    graph = fail(scheduler, "r")
    status, out, _ = command("retry", "r")
    assert status == 0 and "run its graph again with run_id='r'" in out
    assert [record.run_id for record in store.ready()] == ["r"]
    status, _, err = command("retry", "r")
    assert status == 1 and "r is interrupted" in err
    assert scheduler.run(graph, run_id="r").status == "partial"


def test_delete(command, scheduler, store):
    """Runs are removed with everything that is stored of them."""
    park(scheduler, "r", ("w", None))
    fail(scheduler, "s")
    assert command("delete", "r", "s") == (0, "r is deleted\ns is deleted\n", "")
    assert store.stats() == {}


@suite
def test_a_run_of_many_tasks(command, scheduler):
    """Of more than 100 tasks, those that failed or wait are listed; --json has all."""

    def odd(number):
        if number % 50 == 0:
            raise LookupError(f"no {number}")
        return number

    graph = TaskGraph()
    graph.map(odd, range(120), name="odd")
    scheduler.run(graph, run_id="r")
    out = command("show", "r")[1]
    assert out.count("LookupError: no ") == 4  # of the run, and of three tasks
    assert "\n117 more tasks; --json has all of them\n" in out
    assert len(json.loads(command("show", "r", "--json")[1])["tasks"]) == 120


def test_the_calls_of_a_task(command, scheduler, payment):
    """A task is shown with its attempts, its requests to models and its tool calls."""
    call_id, _, finish = payment
    assert command("approve", "payment", call_id, "--yes")[0] == 0
    finish()
    out = command("show", "payment", "clerk")[1]
    spans = [line.split()[:2] for line in out.split("SPAN")[1].splitlines()[1:5]]
    assert ["model", "scripted"] in spans and ["tool", "pay"] in spans
