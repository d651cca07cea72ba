"""The frame of the command: help, stores, exit statuses, and errors as one line."""

import argparse
import io
import os
import shlex
import sys

import pytest

from asimov_sync import RedisCache, RunStore, TaskGraph, TaskScheduler
from asimov_sync.cli.main import COMMANDS, main
from asimov_sync.cli.store import format_command

from ..tiers import soak, suite
from ..waiting import DEADLINE
from .programs import start_command

READING = [["runs"], ["show", "r"], ["runs", "--json"]]
WRITING = [
    ["cancel", "r"],
    ["answer", "r", "w", "1"],
    ["approve", "r"],
    ["retry", "r"],
    ["delete", "r"],
]


@suite
def test_help(capsys):
    """The help lists every command, and that of each command has examples and exit statuses."""
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n    {name} " in text
        with pytest.raises(SystemExit) as exit:
            main([name, "--help"])
        assert exit.value.code == 0
        own = capsys.readouterr().out
        examples = own.split("\nexamples:\n")[1].split("\n\n")[0].splitlines()
        assert examples and all(line.startswith(f"  asimov-sync {name}") for line in examples)
        assert "\nexit status:\n  0    " in own
        assert "\n  130  Ctrl-C" in own


def test_no_command(capsys):
    """Without a command, the help is printed to stderr. The status is 2."""
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "COMMAND" in err


@pytest.mark.parametrize("arguments", READING + WRITING)
def test_a_missing_file(command, folder, arguments):
    """A file that does not exist is a message with status 4, and is not created."""
    status, out, err = command(*arguments)
    assert (status, out) == (4, "")
    assert err == (
        "asimov-sync: there is no file runs.db: a scheduler with a durable run creates it\n"
    )
    assert os.listdir(str(folder)) == []


@pytest.mark.parametrize("arguments", [["runs"], ["show", "r"], ["cancel", "r"]])
def test_an_empty_file(command, folder, arguments):
    """A file without runs is left as it is."""
    folder.joinpath("runs.db").touch()
    status, out, err = command(*arguments)
    assert (status, out[:19]) in [(0, "no runs are stored."), (4, "")]
    assert folder.joinpath("runs.db").stat().st_size == 0


def test_no_store_is_named(command, monkeypatch):
    """Without a name of the store, one line says how to give one."""
    monkeypatch.delenv("ASIMOV_CACHE")
    status, out, err = command("runs")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--cache" in err and "$ASIMOV_CACHE" in err and "--scheduler" in err


@pytest.mark.parametrize(
    "address, status, message",
    [
        (".", 2, "is a folder"),
        ("mongodb://host/db", 2, "mongodb:// is not the address of a cache"),
        ("redis://user:secret@host:port/0", 2, "redis://user:…@host:port/0 is not an address"),
        pytest.param("redis://:secret@127.0.0.1:1/0", 1, "cannot be reached", marks=suite),
        ("text.txt", 1, "is not a SQLite database"),
    ],
)
def test_bad_addresses(command, folder, address, status, message):
    """An address that is not that of a store is one line, without the password in it."""
    folder.joinpath("text.txt").write_text("not a database, but a long text" * 50)
    given, out, err = command("runs", "--cache", address)
    assert (given, out, err.count("\n")) == (status, "", 1)
    assert message in err and "secret" not in err and ".." not in err


def test_a_command_to_type_has_no_password():
    """A command that is printed has the address of the store without its password, quoted."""
    options = argparse.Namespace(cache="redis://ann:secret@host/0", scheduler=None)
    command = format_command(options, "answer", "r", "it's\x1b", "$(rm x)")
    assert "secret" not in command
    words = shlex.split(command)
    assert words[:5] == ["asimov-sync", "answer", "r", "it's\\x1b", "$(rm x)"]
    assert words[5:] == ["--cache", "redis://ann:…@host/0"]


@suite
def test_a_store_in_redis(command, redis_url):
    """--cache takes the URL of a Redis server."""
    store = RunStore(RedisCache(url=redis_url))
    graph = TaskGraph()
    graph.add(lambda task, context: context.wait_for("word"), name="ask")
    with TaskScheduler(runs=store) as scheduler:
        assert scheduler.run(graph, run_id="in-redis").waiting
    where = ["--cache", redis_url]
    assert "in-redis" in command("runs", *where)[1]
    assert command("answer", "in-redis", "ask", "x", *where)[0] == 4
    assert command("answer", "in-redis", "word", "x", *where)[0] == 0
    assert command("watch", "in-redis", *where)[0] == 3
    assert command("show", "in-redis", "ask", *where)[0] == 0
    assert command("delete", "in-redis", *where)[0] == 0


@suite
def test_a_store_of_a_program(command, write_module):
    """--scheduler names a scheduler or a store, whose serializer then reads the runs."""
    name = write_module(
        "import base64, json\n"
        "from asimov_sync import RunStore, SQLiteCache, TaskGraph, TaskScheduler\n"
        "class Hidden:\n"
        "    def dumps(self, value): return base64.b64encode(json.dumps(value).encode())\n"
        "    def loads(self, data): return json.loads(base64.b64decode(data).decode())\n"
        "store = RunStore(SQLiteCache('runs.db', synchronous='normal'), serializer=Hidden())\n"
        "scheduler = TaskScheduler(runs=store)\n"
        "graph = TaskGraph()\n"
        "graph.call(len, 'four')\n"
        "scheduler.run(graph, run_id='hidden')\n"
    )
    for thing in ("scheduler", "store"):
        status, out, _ = command("show", "hidden", "len", "--scheduler", f"{name}:{thing}")
        assert status == 0 and out.endswith("\n4\n")
    status, out, _ = command("runs")
    assert status == 0 and "hidden" in out  # the list says that the record cannot be read
    status, out, err = command("show", "hidden")
    assert (status, out, err.count("\n")) == (1, "", 1)
    status, _, err = command("runs", "--scheduler", f"{name}:graph")
    assert status == 2 and "not a TaskScheduler or a RunStore" in err
    assert command("runs", "--scheduler", f"{name}:store", "--cache", "x")[0] == 2


@suite
def test_a_run_that_does_not_exist(command, scheduler):
    """Each command that names a run gives status 4 for one that does not exist, and one line."""
    graph = TaskGraph()
    graph.call(len, "four")
    scheduler.run(graph, run_id="there")
    for arguments in (["show", "absent"], ["runs", "--after", "absent"], *WRITING):
        status, out, err = command(*arguments)
        assert (status, out, err.count("\n")) == (4, "", 1)
        assert "there is no stored run" in err
    assert command("cancel", "there", "absent")[0] == 4
    assert command("delete", "there", "absent")[0] == 4
    assert command("show", "there")[0] == 0


class ClosedPipe(io.StringIO):
    """An output whose reader has left."""

    def write(self, text):
        raise BrokenPipeError


def test_an_output_without_a_reader(command, scheduler, monkeypatch, capsys):
    """If nobody reads the output any more, the status is 141, without a message."""
    graph = TaskGraph()
    graph.call(len, "four")
    scheduler.run(graph, run_id="r")
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    assert main(["show", "r"]) == 141
    assert capsys.readouterr().err == ""


@soak
def test_a_reader_that_leaves(scheduler, folder):
    """If the reader of the output closes it, the process ends without a traceback."""
    graph = TaskGraph()
    graph.call(str.upper, "long" * 100000)
    scheduler.run(graph, run_id="r")
    with start_command(folder, "show", "r", "--cache", "runs.db") as process:
        process.stdout.read(10)
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (141, "")


def test_an_encoding_without_the_characters(command, scheduler, monkeypatch):
    """Characters that the encoding of the output lacks are escaped."""
    graph = TaskGraph()
    graph.call(str.lower, "ÉTÉ →")
    scheduler.run(graph, run_id="r")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["show", "r", "lower"]) == 0
    assert written.getvalue().endswith(b"\n\\xe9t\\xe9 \\u2192\n")
