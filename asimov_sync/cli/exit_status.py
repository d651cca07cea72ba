"""The exit statuses of the command. They are documented in docs/command.rst."""

from typing import Mapping

__all__ = [
    "BROKEN_PIPE",
    "FAILED",
    "INTERRUPTED",
    "NOT_FOUND",
    "OK",
    "PARKED",
    "TERMINATED",
    "WRONG_USAGE",
    "describe",
]

OK = 0
FAILED = 1
WRONG_USAGE = 2
PARKED = 3
NOT_FOUND = 4
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

MEANINGS = {
    OK: "done",
    FAILED: "the run failed, or the command did",
    WRONG_USAGE: "wrong arguments",
    PARKED: "the run waits for answers",
    NOT_FOUND: "no such file, run or wait",
    INTERRUPTED: "Ctrl-C",
    BROKEN_PIPE: "the reader of the output has closed it",
    TERMINATED: "SIGTERM",
}
"""The general meaning of each status. Those above 128 are 128 and the number of a signal."""

COMMON = (OK, FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED)
"""The statuses that every command has."""


def describe(own: Mapping[int, str]) -> str:
    """Return the statuses of a command, one in each line.

    own: the statuses with a meaning that is special to the command.
    """
    meanings = {status: own.get(status, MEANINGS[status]) for status in sorted({*COMMON, *own})}
    return "\n".join(f"  {status:<4} {meaning}" for status, meaning in meanings.items())
