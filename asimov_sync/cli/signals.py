"""SIGTERM ends a command as Ctrl-C does: by an exception in the main thread."""

import signal
import sys
from typing import Any, NoReturn

__all__ = ["TERMINATED", "exit_on_sigterm"]

TERMINATED = 143
"""The exit status after SIGTERM: 128 and the number of the signal, as shells report it."""


def exit_on_sigterm() -> None:
    """Have SIGTERM raise SystemExit in the main thread."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second one would stop the release of a run
    sys.exit(TERMINATED)
