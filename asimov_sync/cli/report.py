"""`asimov-sync report`: writes a report of a run as an HTML file."""

import argparse

from asimov_sync.cli.command import Command, write_file
from asimov_sync.cli.exit_status import FAILED, NOT_FOUND, OK
from asimov_sync.cli.options import add_run_id
from asimov_sync.cli.output import Output
from asimov_sync.cli.store import add_store_options, find_run, open_store
from asimov_sync.display.report import report_html
from asimov_sync.display.view import view_record

__all__ = ["COMMAND"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run_id(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the file, which is replaced if it exists; by default RUN_ID.html",
    )
    add_store_options(parser)


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    record = find_run(store, options.run_id, options)
    html = report_html(view_record(record, cache=store.cache))
    path = options.output or f"{record.run_id}.html"
    write_file(path, html)
    output.line(f"{path} has the report; open it in a browser")
    return OK


COMMAND = Command(
    "Write a report of a run, as far as it has come: one HTML file with the graph, a timeline,\n"
    "the usage and cost, and each task with its result or error. It contains what the store holds.",
    ["report report-42 -o run.html", "report report-42 --cache runs.db"],
    {FAILED: "the file cannot be written", NOT_FOUND: "there is no such file or run"},
    add_arguments,
    execute,
)
