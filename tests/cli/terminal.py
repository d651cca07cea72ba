"""The command on a terminal of its own (a pty), with a person who reads and types."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

from ..waiting import DEADLINE
from .programs import ROOT

START = """\
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
from asimov_sync.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """A process on a terminal.

    process: the process.
    text: everything that it has written.
    """

    def __init__(self, process, fd):
        self.process = process
        self.text = ""
        self._fd = fd
        self._read = 0  # up to here, `expect` has found what it looked for

    def expect(self, text):
        """Wait until a text is written, after the last one that was found."""
        end = time.monotonic() + DEADLINE
        while text not in self.text[self._read :]:
            left = end - time.monotonic()
            assert left > 0 and self._receive(left), f"{text!r} is not in {self.text!r}"
        at = self.text.index(text, self._read)
        self._read = at + len(text)

    def _receive(self, seconds):
        """Read what is written within the seconds. Return whether there is more to come."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the process has ended
            return False
        self.text += data.decode("utf-8")
        return bool(data)

    def type(self, text):
        """Type a text; "\\n" is Enter, "\\x03" Ctrl-C, "\\x04" Ctrl-D."""
        os.write(self._fd, text.encode("utf-8"))

    def wait(self):
        """Wait for the end of the process. Return its exit status."""
        end = time.monotonic() + DEADLINE
        while self._receive(end - time.monotonic()):
            pass
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def open_terminal(folder, *arguments, columns=100, **environment):
    """Run the command on a terminal, in a folder. Kill it at the end of the block."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    env = dict(os.environ, PYTHONPATH=str(ROOT), TERM="xterm", **environment)
    for name in ("COLUMNS", "LINES"):
        env.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", START] + list(arguments),
        cwd=str(folder),
        env=env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
