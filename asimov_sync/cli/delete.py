"""`asimov-sync delete`: removes runs from the store."""

import argparse

from asimov_sync.cli.command import Command, CommandError
from asimov_sync.cli.exit_status import FAILED, NOT_FOUND, OK
from asimov_sync.cli.options import add_run_ids
from asimov_sync.cli.output import Output
from asimov_sync.cli.store import add_store_options, find_run, format_command, open_store

__all__ = ["COMMAND"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run_ids(parser)
    parser.add_argument(
        "--force", action="store_true", help="also remove runs that a driver is executing"
    )
    add_store_options(parser)


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    for run_id in options.run_ids:  # all of them, before one is removed
        record = find_run(store, run_id, options)
        if record.lease_until is not None and not options.force:
            cancel = format_command(options, "cancel", run_id)
            raise CommandError(
                f"{run_id} is running ({record.owner}). End it first ({cancel}), or give --force"
            )
    for run_id in options.run_ids:
        store.delete(run_id)
        output.line(f"{run_id} is deleted")
    return OK


COMMAND = Command(
    "Remove everything that is stored of runs.",
    ["delete report-42 report-43", "delete report-42 --cache runs.db"],
    {
        FAILED: "a run is running, and nothing was removed",
        NOT_FOUND: "there is no such file or run, and nothing was removed",
    },
    add_arguments,
    execute,
)
