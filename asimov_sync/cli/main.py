"""The command line: `asimov-sync`, which is also `python -m asimov_sync`."""

import argparse
import logging
import sys
import traceback
from typing import List, Optional

from asimov_sync import __version__
from asimov_sync.cli.loading import UsageError, load_scheduler
from asimov_sync.cli.signals import TERMINATED, exit_on_sigterm
from asimov_sync.cli.work import Worker

__all__ = ["main"]

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
"""The exit statuses: after an error, for wrong arguments (as argparse has it), and after Ctrl-C."""

WORK_EPILOG = f"""\
A run belongs to a flow of the scheduler, and is ready when it has something to do and no driver.
Runs are continued one at a time. Start several processes to have several at once.

exit status:
  0    with --once: nothing is ready
  {FAILED}    the module raised; or with --once: a run could not be continued
  {WRONG_USAGE}    wrong arguments
  {INTERRUPTED}  Ctrl-C
  {TERMINATED}  SIGTERM
Ctrl-C and SIGTERM interrupt the run at once: another process can continue it.
"""


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command, and return its exit status.

    arguments: the arguments of the command line; by default those of the process.
    """
    parser = _make_parser()
    options = parser.parse_args(arguments)
    exit_on_sigterm()
    try:
        return _work(options)
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asimov-sync", description="Operate the durable runs of asimov_sync."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    work = commands.add_parser(
        "work",
        help="continue the stored runs of a scheduler",
        description="Continue the runs in the store of a scheduler that are ready.",
        epilog=WORK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    work.add_argument(
        "scheduler",
        metavar="MODULE:NAME",
        help="the scheduler, such as myapp.tasks:scheduler; the current folder is searched first",
    )
    work.add_argument("--once", action="store_true", help="exit when nothing is ready")
    work.add_argument(
        "--poll",
        metavar="SECONDS",
        type=_read_seconds,
        default=1.0,
        help="how often to look for ready runs; default 1",
    )
    return parser


def _read_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds above 0, not {text}")
    return seconds


_read_seconds.__name__ = "number"  # for the messages of argparse


def _work(options: argparse.Namespace) -> int:
    try:
        scheduler = load_scheduler(options.scheduler)
    except UsageError:
        raise
    except Exception:
        traceback.print_exc()
        print(f"asimov-sync: {options.scheduler} could not be loaded", file=sys.stderr)
        return FAILED
    store = scheduler.runs
    if store is None:
        raise UsageError(
            f"{options.scheduler} has no store of runs: TaskScheduler(…, runs=RunStore(…))"
        )
    # Without effect if the module has set up logging itself.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker = Worker(scheduler, store)
    if not options.once:
        worker.work_forever(options.poll)
    return FAILED if worker.work_until_idle() else 0
