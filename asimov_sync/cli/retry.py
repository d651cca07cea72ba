"""`asimov-sync retry`: has the failed tasks of a run run again."""

import argparse

from asimov_sync.cli.command import Command, CommandError
from asimov_sync.cli.exit_status import FAILED, NOT_FOUND, OK
from asimov_sync.cli.options import add_run_id
from asimov_sync.cli.output import Output
from asimov_sync.cli.store import add_store_options, find_run, open_store
from asimov_sync.cli.waits import format_resume

__all__ = ["COMMAND"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run_id(parser)
    add_store_options(parser)


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    record = find_run(store, options.run_id, options)
    if not store.retry(record.run_id):
        raise CommandError(
            f"{record.run_id} is {record.status.value}: only a run that has ended with failed "
            "tasks can be retried"
        )
    output.line(f"the failed tasks of {record.run_id} will run again")
    output.line(format_resume(store.get(record.run_id), options), "dim")
    return OK


COMMAND = Command(
    "Have the failed tasks of a run that has ended run again, and those that follow from them,\n"
    "when the run is continued.",
    ["retry report-42", "retry report-42 --cache runs.db"],
    {FAILED: "the run has no failed task, or has not ended", NOT_FOUND: "no such file or run"},
    add_arguments,
    execute,
)
