"""The progress of a run as a bar of tqdm, on a pseudo-terminal.

Collected only where tqdm is installed (`tox -e progress`).
"""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from ..waiting import wait_for

PROGRAM = """
import sys, time
from asimov_sync import TaskGraph, TaskScheduler

def page(task, context):
    if task.params["item"] % 30 == 3:
        raise ValueError("broken")
    time.sleep(0.02)

graph = TaskGraph("survey")
graph.map(page, range(int(sys.argv[1])), name="page")
TaskScheduler(max_workers=2).run(graph, progress=True)
"""


class ProgramOnTerminal:
    """A program whose stderr is a terminal of some width."""

    def __init__(self, columns, *arguments, term="xterm"):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._chunks = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env=dict(os.environ, TERM=term, PYTHONIOENCODING="utf-8"),
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # the program has ended
                return
            if not chunk:
                return
            self._chunks.append(chunk)

    @property
    def text(self):
        return b"".join(self._chunks).decode("utf-8", "replace")

    def wait(self):
        status = self.process.wait(30)
        self._reader.join(10)
        os.close(self._ours)
        return status

    @property
    def screen(self):
        """Return the lines as a person sees them: later text replaces earlier text of a line."""
        lines = []
        for line in self.text.replace("\r\n", "\n").split("\n"):
            cells = ""
            for part in line.split("\r"):
                cells = part + cells[len(part) :]
            lines.append(cells.rstrip())
        return [line for line in lines if line]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_bar_on_a_terminal(columns):
    """The bar fits the terminal, is drawn at most ten times a second, and leaves one line."""
    start = time.monotonic()
    program = ProgramOnTerminal(columns, "200")
    assert program.wait() == 0
    seconds = time.monotonic() - start
    drawn = re.findall(r"\r([^\r\n]*\d/200 [^\r\n]*)", program.text)
    assert 5 < len(drawn) <= 10 * seconds + 2
    assert all(len(line) <= columns for line in drawn)
    assert all(("survey: " in line and "|" in line) is (columns > 60) for line in drawn)
    assert len(program.screen) == 1
    assert program.screen[0].startswith("survey is PARTIAL after 0:0")
    assert "193 of 200 tasks have a result, 7 failed (page[3], page[33], " in program.screen[0]


def test_interrupt_on_a_terminal():
    """After Ctrl-C the bar is gone, and one line before the traceback says what was finished."""
    program = ProgramOnTerminal(100, "2000")
    wait_for(lambda: "/2000 [0:00<" in program.text, "the bar")
    program.process.send_signal(signal.SIGINT)
    assert program.wait() != 0
    first = program.screen[0]
    assert re.match(r"survey was interrupted after 0:0\d: \d+ of 2000 tasks have a result", first)
    assert "scheduler.last_result has what was finished" in first
    assert program.screen[1].startswith("Traceback")
    assert program.screen[-1] == "KeyboardInterrupt"


def test_terminal_without_cursor():
    """A terminal that cannot move its cursor gets lines."""
    program = ProgramOnTerminal(100, "200", term="dumb")
    assert program.wait() == 0
    assert "\r" not in program.text.replace("\r\n", "\n")
    assert program.screen[0].startswith("survey: ")
