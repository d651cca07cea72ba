"""`asimov-sync watch`: follows a run of another process until it ends."""

import argparse
import sys

from asimov_sync.cli.command import Command, CommandError, NotFound
from asimov_sync.cli.events import EventPrinter
from asimov_sync.cli.exit_status import FAILED, INTERRUPTED, NOT_FOUND, OK, PARKED
from asimov_sync.cli.options import add_run_id, add_utc_option
from asimov_sync.cli.output import Output
from asimov_sync.cli.store import add_store_options, find_run, format_command, open_store
from asimov_sync.cli.waits import print_waits
from asimov_sync.runs.status import RunStatus

__all__ = ["COMMAND"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run_id(parser)
    parser.add_argument(
        "--json", action="store_true", help="print each event as JSON, one in a line"
    )
    add_utc_option(parser)
    add_store_options(parser)


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    run_id = find_run(store, options.run_id, options).run_id
    printer = EventPrinter(output)
    try:
        for event in store.events(run_id):
            if options.json:
                output.json_line(event)
            else:
                printer.print(event)
    except KeyboardInterrupt:
        print("stopped watching; the run is not affected", file=sys.stderr)
        raise
    try:
        record = store.get(run_id)
    except KeyError:
        raise NotFound(f"run {run_id} was deleted") from None
    if record.status is RunStatus.PARKED:
        if not options.json:
            output.line()
            print_waits(store.waits(run_id), options, output)
        return PARKED
    if record.status in (RunStatus.INTERRUPTED, RunStatus.ORPHANED):
        raise CommandError(
            f"run {run_id} is {record.status.value}: no process drives it; "
            f"`{format_command(options, 'show', run_id)}` says how to continue it"
        )
    return OK if record.status is RunStatus.COMPLETE else FAILED


COMMAND = Command(
    "Show what has happened in a run so far, and follow it until it ends or waits for answers.\n"
    "The log of a run has its last 10,000 events.",
    ["watch report-42", "watch report-42 --json | jq .type"],
    {
        OK: "the run is complete",
        FAILED: "the run failed, or no process drives it any more",
        PARKED: "the run waits for answers; what to type is printed",
        NOT_FOUND: "there is no such file or run",
        INTERRUPTED: "Ctrl-C: the run is not affected",
    },
    add_arguments,
    execute,
)
