"""`asimov-sync watch`: follows a run until it ends; and `show` of a run in progress."""

import json
import re
import signal
import threading

from tenacity import wait_fixed

from asimov_sync import Agent, Retry, RunStatus, TaskGraph, tool
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..tiers import suite
from ..waiting import DEADLINE
from .programs import start_command


def make_graph(*functions, **options):
    graph = TaskGraph()
    for function in functions:
        graph.add(function, name=function.__name__, **options)
    return graph


def test_a_run_that_has_ended(command, scheduler):
    """The events of a run are shown, one in each line, with control characters escaped."""

    def page(task, context):
        context.report(0.5, "half\x1b[2J way\nthere")
        context.report(0.6, "is left out, because the line before is not a second old")
        if context.attempt == 1:
            raise LookupError("no\x1b page")
        return "a page"

    scheduler.run(make_graph(page, retry=Retry(attempts=2, wait=wait_fixed(0))), run_id="r")
    status, out, _ = command("watch", "r")
    assert status == 0 and "\x1b" not in out
    lines = [line.split(None, 1)[1] for line in out.splitlines()]
    assert lines[0] == "the run         started"
    assert lines[1] == "page            started"
    assert lines[2] == "page            50% half\\x1b[2J way\\nthere"
    assert lines[3].startswith("page            failed, again in ")
    assert lines[3].endswith(": LookupError: no\\x1b page")
    assert lines[4] == "page            started, attempt 2"
    assert lines[5].startswith("page            complete after ")
    assert lines[6] == "the run         complete"


def test_an_approval_in_another_language(command, scheduler):
    """The arguments of a call that waits for approval are readable, in every language."""
    call = calls(("pay", {"to": "鈴木\u202e"}))

    @tool(requires_approval=True)
    def pay(to: str) -> str:
        """Pay somebody."""
        return "paid"

    graph = TaskGraph()
    graph.add(
        Agent(ScriptedInferenceClient([call]), tools=[pay], name="clerk"),
        objective="Pay.",
        name="clerk",
    )
    assert scheduler.run(graph, run_id="r").waiting
    status, out, _ = command("watch", "r")
    assert status == 3 and 'waits for approval of pay({"to": "鈴木\\u202e"})' in out


def test_the_json_of_events(command, scheduler, store):
    """--json prints the events as the store has them, one in each line."""
    scheduler.run(make_graph(one), run_id="r")
    status, out, _ = command("watch", "r", "--json")
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == list(store.events("r"))


def one(task, context):
    return 1


@suite
def test_exit_statuses(command, scheduler, store):
    """The status is that of the run: 1 after a failure, 3 if it waits, 1 without a driver."""

    def fail(task, context):
        raise LookupError("no page")

    def ask(task, context):
        return context.wait_for("word")

    scheduler.run(make_graph(fail), run_id="failed")
    scheduler.run(make_graph(ask), run_id="parked")
    assert command("watch", "failed")[0] == 1
    status, out, _ = command("watch", "parked")
    assert status == 3 and "to answer  asimov-sync answer parked word VALUE\n" in out

    def hang(task, context):
        context.cancellation.wait()

    with scheduler.stream(make_graph(hang), run_id="interrupted") as events:
        next(events)
    status, _, err = command("watch", "interrupted", "--cache", "runs.db")
    assert status == 1 and "interrupted: no process drives it" in err
    assert "`asimov-sync show interrupted --cache runs.db`" in err
    assert command("watch", "absent")[0] == 4


def test_show_a_task_that_executes(command, scheduler, store):
    """`show` has the tasks of a running run that execute, and those that have not started."""
    started, end = threading.Event(), threading.Event()

    def slow(task, context):
        context.report(0.25, "reading")
        context.step("commit", int)  # writes the log
        started.set()
        assert end.wait(DEADLINE)

    graph = make_graph(slow)
    graph.add(one, name="later", depends_on="slow")
    run = scheduler.submit(graph, run_id="r")
    assert started.wait(DEADLINE)
    out = command("show", "r")[1]
    data, alone = command("show", "r", "--json")[1], command("show", "r", "slow")[1]
    end.set()
    assert run.result().status == "complete"
    assert re.search(r"^slow +executing +25% reading$", out, re.M)
    assert re.search(r"^later +waiting$", out, re.M)
    assert json.loads(data)["tasks"]["slow"]["status"] == "executing"
    assert "last sign  25% reading\n" in alone
    assert "executing" not in command("show", "r")[1]


@suite
def test_following(command, scheduler, store, folder):
    """A run of another process is followed. Ctrl-C ends the watching, and not the run."""
    end = threading.Event()

    def slow(task, context):
        context.step("commit", int)
        assert end.wait(DEADLINE)
        return 1

    run = scheduler.submit(make_graph(slow), run_id="r")
    with start_command(folder, "watch", "r", "--cache", "runs.db") as process:
        assert process.stdout.readline().endswith("  the run         started\n")
        assert process.stdout.readline().endswith("  slow            started\n")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, err) == (130, "stopped watching; the run is not affected\n")
    assert store.get("r").status is RunStatus.RUNNING
    timer = threading.Timer(0.1, end.set)
    timer.start()
    status, out, _ = command("watch", "r")  # this one follows the run to its end
    timer.join()
    assert status == 0 and out.endswith("  the run         complete\n")
    assert run.result()["slow"] == 1
