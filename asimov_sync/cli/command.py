"""Command: the parts of one command, and the errors that end a command with a message.

Each command has a file of its own, named as the command, with a constant COMMAND.
"""

import argparse
from typing import Callable, Mapping, NamedTuple, Sequence

from asimov_sync.cli.exit_status import FAILED, NOT_FOUND, WRONG_USAGE
from asimov_sync.cli.output import Output

__all__ = ["Command", "CommandError", "NotFound", "UsageError", "write_file"]


class Command(NamedTuple):
    """One command of the command line.

    description: the text at the top of its help.
    examples: command lines for its help, without the name of the program.
    statuses: the exit statuses whose meaning is special to it.
    add_arguments: adds its arguments to its parser.
    execute: receives the parsed arguments and the output, and returns the exit status.
    """

    description: str
    examples: Sequence[str]
    statuses: Mapping[int, str]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace, Output], int]


class CommandError(Exception):
    """Ends a command. The message is for the user, without a traceback.

    status: the exit status.
    """

    status = FAILED


class UsageError(CommandError):
    """An argument is wrong."""

    status = WRONG_USAGE


class NotFound(CommandError):
    """There is no such file, run or wait."""

    status = NOT_FOUND


def write_file(path: str, text: str) -> None:
    """Write a text to a file, which is replaced if it exists. Raises CommandError if it fails."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
