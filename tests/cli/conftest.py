"""The folder, the store and the command of these tests."""

import importlib
import itertools
import signal
import sys

import pytest

from asimov_sync import RunStore, SQLiteCache, TaskScheduler
from asimov_sync.cli.main import main

from .programs import PROGRAM

numbers = itertools.count(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of the test; no environment variable names a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the current folder
    monkeypatch.delenv("ASIMOV_CACHE", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    terminate = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, terminate)


@pytest.fixture
def write_module(folder, monkeypatch):
    """A function that writes a module into the folder, and returns its name, new in each test."""

    def write(text):
        name = f"program_{next(numbers)}"
        folder.joinpath(name + ".py").write_text(text, encoding="utf-8")
        monkeypatch.setitem(sys.modules, name, None)  # restored to being absent
        del sys.modules[name]
        return name

    return write


@pytest.fixture
def program(write_module, folder, monkeypatch):
    """The program, as a module that was imported in its folder."""
    name = write_module(PROGRAM)
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module(name)
    yield module
    module.scheduler.close()


@pytest.fixture
def store(folder):
    """The store in runs.db of the folder."""
    return RunStore(SQLiteCache("runs.db", synchronous="normal"), lease=5.0)


@pytest.fixture
def scheduler(store):
    """A scheduler of that store."""
    scheduler = TaskScheduler(runs=store, max_workers=2)
    yield scheduler
    scheduler.close()


@pytest.fixture
def command(folder, capsys, monkeypatch):
    """A function that runs the command in this process, and returns status, output and errors.

    The store is that of the folder, unless the arguments name another one.
    """
    monkeypatch.setenv("ASIMOV_CACHE", "runs.db")

    def run(*arguments):
        capsys.readouterr()
        try:
            status = main(list(arguments))
        except SystemExit as exit:  # of argparse
            status = exit.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run
