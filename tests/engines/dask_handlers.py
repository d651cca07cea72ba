"""A handler that dask's workers import, and that is held until a test releases it."""

import os
import pathlib
import time

from ..graph import remote_handlers

HOLD_SECONDS = 60.0
"""The seconds after which a handler that is held fails."""


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


HANDLERS = dict(remote_handlers.HANDLERS, hold=hold)
