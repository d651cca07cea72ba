"""`asimov-sync work`: continues the stored runs of a scheduler that are ready."""

import argparse
import logging

from asimov_sync.cli.command import Command
from asimov_sync.cli.exit_status import FAILED, INTERRUPTED, OK, TERMINATED
from asimov_sync.cli.loading import load_scheduler, store_of
from asimov_sync.cli.logs import show_log
from asimov_sync.cli.output import Output
from asimov_sync.cli.worker import Worker

__all__ = ["COMMAND"]

DESCRIPTION = """\
Continue the runs in the store of a scheduler that are ready.

A run belongs to a flow of the scheduler, and is ready when it has something to do and no driver.
Runs are continued one at a time. Start several processes to have several at once. Ctrl-C and
SIGTERM interrupt the run at once: another process can continue it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "scheduler",
        metavar="MODULE:NAME",
        help="the scheduler, such as myapp.tasks:scheduler; the current folder is searched first",
    )
    parser.add_argument("--once", action="store_true", help="exit when nothing is ready")
    parser.add_argument(
        "--poll",
        metavar="SECONDS",
        type=_read_seconds,
        default=1.0,
        help="how often to look for ready runs; default 1",
    )


def _read_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds above 0, not {text}")
    return seconds


_read_seconds.__name__ = "number"  # for the messages of argparse


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    scheduler = load_scheduler(options.scheduler)
    store = store_of(scheduler, options.scheduler)
    show_log(logging.INFO)
    worker = Worker(scheduler, store)
    if not options.once:
        worker.work_forever(options.poll)
    return FAILED if worker.work_until_idle() else OK


COMMAND = Command(
    DESCRIPTION,
    [
        "work myapp.tasks:scheduler           # looks every second",
        "work myapp.tasks:scheduler --once    # until nothing is ready",
    ],
    {
        OK: "with --once: nothing is ready",
        FAILED: "the module raised; or with --once: a run could not be continued",
        INTERRUPTED: "Ctrl-C",
        TERMINATED: "SIGTERM",
    },
    add_arguments,
    execute,
)
