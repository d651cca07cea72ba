"""`asimov-sync work`: continues the stored runs of a scheduler."""

import logging
import os
import signal
import time

import pytest

from asimov_sync import RunStatus, Task, TaskGraph
from asimov_sync.cli.logs import show_log
from asimov_sync.cli.main import main

from ..tiers import suite, within
from ..waiting import DEADLINE, wait_for
from .programs import start_command


def make_ready(program, flow, run_id, **args):
    """Start a run that parks at once, and answer it."""
    assert program.scheduler.run(flow, args=args, run_id=run_id).waiting
    wait = program.store.waits(run_id)[0]
    assert program.store.answer(run_id, wait.name, "a word")


def work(program, *arguments):
    """Run the command in this process. Return its exit status."""
    return main(["work", f"{program.__name__}:scheduler"] + list(arguments))


# In this process


def test_once_continues_everything_that_is_ready(program):
    """--once continues each ready run by its flow, with its arguments, and exits with status 0."""
    make_ready(program, "single", "r1", type="ask", name="first")
    make_ready(program, "single", "r2", type="ask", name="second")
    assert program.scheduler.run("single", args={"type": "ask"}, run_id="r3").waiting
    assert work(program, "--once") == 0
    assert program.store.result("r1").results == {"first": "a word"}
    assert program.store.result("r2").results == {"second": "a word"}
    assert program.store.stats() == {"complete": 2, "parked": 1}


def test_runs_without_a_flow_are_skipped(program, caplog):
    """Runs of a graph and of an unknown flow are left alone, and each is logged once."""
    caplog.set_level(logging.WARNING)
    graph = TaskGraph()
    graph.add(Task(type="ask"), name="only")
    assert program.scheduler.run(graph, run_id="of-a-graph").waiting
    program.store.answer("of-a-graph", "word", 1)
    make_ready(program, "forgotten", "of-a-flow")
    make_ready(program, "single", "r", type="ask")
    del program.scheduler.flows["forgotten"]
    assert work(program, "--once") == 0  # looks twice: the second time, "r" is not ready any more
    assert [record.getMessage() for record in caplog.records] == [
        "run of-a-graph was started with a graph, not by a flow: skipped",
        "run of-a-flow is of the flow 'forgotten', which is not registered here: skipped",
    ]
    assert program.store.get("r").status is RunStatus.COMPLETE
    assert program.store.get("of-a-flow").status is RunStatus.PARKED


def test_a_failure_does_not_end_the_loop(program, caplog):
    """A run that fails, and one that cannot be built, leave the others to be continued.

    The second kind makes the exit status of --once 1.
    """
    make_ready(program, "single", "fails", type="break")
    make_ready(program, "moody", "refused")
    make_ready(program, "single", "r", type="ask")
    open("moody", "w").close()
    assert work(program, "--once") == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "run refused: the flow cannot build its graph"
    ]
    assert program.store.get("fails").status is RunStatus.FAILED
    assert program.store.get("r").status is RunStatus.COMPLETE
    assert [record.run_id for record in program.store.ready()] == ["refused"]
    os.remove("moody")
    assert work(program, "--once") == 0
    assert program.store.get("refused").status is RunStatus.COMPLETE


@pytest.mark.parametrize(
    "path, message",
    [
        ("{0}", "does not name a scheduler: write module:name"),
        ("{0}:", "does not name a scheduler"),
        ("no_such_module:scheduler", "there is no module 'no_such_module'"),
        ("{0}.inner:scheduler", "there is no module '{0}.inner'"),
        ("{0}:absent", "{0} has no 'absent'"),
        ("{0}:store.absent", "{0} has no 'store.absent'"),
        ("{0}:number", "is 7, not a TaskScheduler"),
        ("{0}:without_store", "has no store of runs: TaskScheduler(…, runs=RunStore(…))"),
    ],
)
def test_wrong_arguments(program, capsys, path, message):
    """A path that names no scheduler with a store gives status 2 and one line, no traceback."""
    assert main(["work", path.format(program.__name__)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("asimov-sync: ") and message.format(program.__name__) in err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_wrong_pauses(capsys, seconds):
    """--poll takes a number of seconds above 0."""
    with pytest.raises(SystemExit) as exit:
        main(["work", "module:scheduler", f"--poll={seconds}"])
    assert exit.value.code == 2
    assert "--poll" in capsys.readouterr().err


def test_a_module_that_raises(program, tmp_path, capsys):
    """The traceback of a module that cannot be imported is printed; the status is 1."""
    broken = f"broken_{program.__name__}"
    tmp_path.joinpath(broken + ".py").write_text("import not_installed", encoding="utf-8")
    assert main(["work", broken + ":scheduler"]) == 1
    err = capsys.readouterr().err
    assert "No module named 'not_installed'" in err and f'{broken}.py", line 1' in err


def test_the_log_cannot_act_on_the_terminal(capsys, monkeypatch):
    """The log that the command shows has control characters escaped."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    try:
        show_log(logging.INFO)
        logging.getLogger("test").error("a \x1b[2J text", exc_info=LookupError("no\x1b page"))
    finally:
        root.setLevel(level)
    err = capsys.readouterr().err
    assert "\x1b" not in err and "ERROR a \\x1b[2J text\nLookupError: no\\x1b page\n" in err


# As a process


@suite
def test_a_killed_worker_is_replaced(program, tmp_path):
    """A run whose worker was killed is continued by another worker, which repeats no step."""
    make_ready(program, "single", "r", type="hang")
    announced = tmp_path / "announced"
    with start_command(tmp_path, "work", program.__name__ + ":scheduler") as first:
        wait_for((tmp_path / "announcement is kept").exists, "the end of the step")
        first.send_signal(signal.SIGKILL)
        first.wait(DEADLINE)
    announced.unlink()
    tmp_path.joinpath("release").touch()
    wait_for(program.store.ready, "the end of the lease")
    with start_command(tmp_path, "work", program.__name__ + ":scheduler", "--once") as second:
        _, err = second.communicate(timeout=DEADLINE)
    assert second.returncode == 0, err
    assert "INFO run r: complete" in err
    assert program.store.result("r").results == {"only": "released"}
    assert not announced.exists()


@suite
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_interrupt(program, tmp_path, number, status):
    """A waiting worker sees a run that becomes ready; a signal interrupts the run at once.

    The handler ignores its cancellation. The lease is given up, and no traceback is printed.
    """
    arguments = ["work", program.__name__ + ":scheduler", "--poll", "0.05"]
    with start_command(tmp_path, *arguments) as worker:
        make_ready(program, "single", "r", type="hang")
        wait_for(tmp_path.joinpath("announced").exists, "the step of the handler")
        assert program.store.get("r").status is RunStatus.RUNNING
        worker.send_signal(number)
        start = time.monotonic()
        out, err = worker.communicate(timeout=DEADLINE)
        assert time.monotonic() - start < within(1.0)
    assert (out, worker.returncode) == ("", status)
    assert "Traceback" not in err
    record = program.store.get("r")
    assert (record.status, record.lease_until) == (RunStatus.INTERRUPTED, None)
    assert [record.run_id for record in program.store.ready()] == ["r"]
