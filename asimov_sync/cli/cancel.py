"""`asimov-sync cancel`: ends runs for good."""

import argparse

from asimov_sync.cli.command import Command
from asimov_sync.cli.exit_status import FAILED, NOT_FOUND, OK
from asimov_sync.cli.options import add_run_ids
from asimov_sync.cli.output import Output
from asimov_sync.cli.store import add_store_options, find_run, open_store

__all__ = ["COMMAND"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run_ids(parser)
    parser.add_argument(
        "--reason",
        default="cancelled",
        metavar="TEXT",
        help='the reason, which is stored; default "cancelled"',
    )
    add_store_options(parser)


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    for run_id in options.run_ids:
        find_run(store, run_id, options)  # all of them, before one is cancelled
    status = OK
    for run_id in options.run_ids:
        before = store.get(run_id)
        if not store.cancel(run_id, options.reason):
            output.line(f"{run_id} has ended already: {store.get(run_id).status.value}")
            status = FAILED
        elif before.lease_until is not None:
            output.line(f"{run_id} is being cancelled: its driver notices within half a second")
        else:
            output.line(f"{run_id} is cancelled")
    return status


COMMAND = Command(
    "End runs for good, also those that wait for answers. Only a run with restart=True\n"
    "starts them anew.",
    ["cancel report-42", "cancel report-42 --reason 'wrong topic' --cache runs.db"],
    {FAILED: "a run had ended already", NOT_FOUND: "there is no such file or run"},
    add_arguments,
    execute,
)
