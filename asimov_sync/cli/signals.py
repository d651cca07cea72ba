"""SIGTERM ends a command as Ctrl-C does: by an exception in the main thread."""

import signal
import sys
from typing import Any, NoReturn

from asimov_sync.cli.exit_status import TERMINATED

__all__ = ["exit_on_sigterm"]


def exit_on_sigterm() -> None:
    """Have SIGTERM raise SystemExit in the main thread."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second one would stop the release of a run
    sys.exit(TERMINATED)
