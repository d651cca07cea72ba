"""The command line: `asimov-sync`, which is also `python -m asimov_sync`."""

import argparse
import contextlib
import importlib
import os
import sys
from typing import Any, List, Optional

from asimov_sync import __version__
from asimov_sync._json import format_error
from asimov_sync.cli import exit_status
from asimov_sync.cli.command import Command, CommandError
from asimov_sync.cli.output import Output
from asimov_sync.cli.signals import exit_on_sigterm
from asimov_sync.cli.text import escape
from asimov_sync.errors import AsimovError

__all__ = ["main"]

COMMANDS = {
    "demo": "a durable run, step by step, without a key",
    "run": "run a flow or a graph, or continue its run",
    "runs": "list the stored runs",
    "show": "show a run: its tasks, what it waits for, and what to do next",
    "watch": "follow a run of another process until it ends",
    "cancel": "end runs for good",
    "answer": "answer a question that a run waits for",
    "approve": "approve or refuse a tool call that waits for approval",
    "retry": "have the failed tasks of a run run again",
    "delete": "remove runs from the store",
    "report": "write a report of a run as an HTML file",
    "graph": "draw a graph",
    "serve": "show the runs in a browser",
    "work": "continue the stored runs of a scheduler",
    "chat": "talk to an agent on the terminal",
}
"""The commands, in the order of the help. Each has a module of its name beside this file."""

EPILOG = """\
`asimov-sync COMMAND --help` has examples and the exit statuses of a command.
--cache, or the environment variable ASIMOV_CACHE, names the file or server with the runs.
"""


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command, and return its exit status.

    arguments: the arguments of the command line; by default those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        _accept_every_character(stream)
    if arguments is None:
        arguments = sys.argv[1:]
    parser = _make_parser(arguments)
    if not arguments:
        parser.print_help(sys.stderr)
        return exit_status.WRONG_USAGE
    options = parser.parse_args(arguments)
    exit_on_sigterm()
    try:
        output = Output(sys.stdout, getattr(options, "utc", False))
        status: int = options.execute(options, output)
        sys.stdout.flush()
        return status
    except CommandError as error:
        return _fail(str(error), error.status)
    except AsimovError as error:  # of the store, above all
        return _fail(str(error) or format_error(error), exit_status.FAILED)
    except BrokenPipeError:
        # The interpreter flushes again at its end, which must not fail.
        with contextlib.suppress(OSError, ValueError):
            descriptor = sys.stdout.fileno()
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        return exit_status.BROKEN_PIPE
    except KeyboardInterrupt:
        return exit_status.INTERRUPTED


def _accept_every_character(stream: Any) -> None:
    """Have a stream escape the characters that its encoding lacks."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _fail(message: str, status: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    print(f"asimov-sync: {escape(message)}", file=sys.stderr)
    return status


def _make_parser(arguments: List[str]) -> argparse.ArgumentParser:
    """Return the parser. It knows the arguments of the commands that the arguments name.

    The module of another command is not loaded, so that each command starts fast.
    """
    parser = argparse.ArgumentParser(
        prog="asimov-sync",
        description="Start, watch and operate the durable runs of asimov_sync.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    subparsers.required = True
    for name, summary in COMMANDS.items():
        if name not in arguments:
            subparsers.add_parser(name, help=summary)
            continue
        command: Command = importlib.import_module(f"asimov_sync.cli.{name}").COMMAND
        child = subparsers.add_parser(
            name,
            help=summary,
            description=command.description,
            epilog=_make_epilog(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(child)
        child.set_defaults(execute=command.execute)
    return parser


def _make_epilog(command: Command) -> str:
    examples = "\n".join(f"  asimov-sync {example}" for example in command.examples)
    return f"examples:\n{examples}\n\nexit status:\n{exit_status.describe(command.statuses)}\n"
