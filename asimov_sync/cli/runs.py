"""`asimov-sync runs`: lists the stored runs."""

import argparse
from typing import List, Optional, Sequence

from asimov_sync.cli.command import Command
from asimov_sync.cli.exit_status import NOT_FOUND
from asimov_sync.cli.options import add_json_option, add_utc_option, read_moment, read_tag
from asimov_sync.cli.output import Output
from asimov_sync.cli.records import STATUS_STYLES, describe_counts, run_to_dict
from asimov_sync.cli.store import add_store_options, find_run, format_command, open_store
from asimov_sync.cli.text import escape_line, width_of
from asimov_sync.display.words import format_seconds
from asimov_sync.runs.status import RunStatus
from asimov_sync.runs.store import RunRecord, RunStore

__all__ = ["COMMAND"]

LIMIT = 50

ERROR_COLUMNS = 24
"""The width that the column of errors has at least, before other columns are left out for it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--status",
        action="append",
        choices=[status.value for status in RunStatus],
        metavar="STATUS",
        help=f"only runs with this status: {', '.join(RunStatus)}; may be repeated",
    )
    parser.add_argument(
        "--tag",
        action="append",
        type=read_tag,
        default=[],
        metavar="NAME=VALUE",
        help="only runs with this tag; may be repeated, for runs with all of them",
    )
    parser.add_argument(
        "--since", type=read_moment, metavar="TIME", help="only runs created at or after TIME"
    )
    parser.add_argument(
        "--until",
        type=read_moment,
        metavar="TIME",
        help="only runs created before TIME: 2030-12-31, 2030-12-31T18:30, or 2h for two hours ago "
        "(s, m, h and d)",
    )
    parser.add_argument(
        "--limit",
        type=_read_limit,
        default=LIMIT,
        metavar="NUMBER",
        help=f"the most runs to list; default {LIMIT}",
    )
    parser.add_argument("--after", metavar="RUN_ID", help="only runs that are older than this one")
    add_json_option(parser)
    add_utc_option(parser)
    add_store_options(parser)


def _read_limit(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1, not {text}")
    return number


_read_limit.__name__ = "number"  # for the messages of argparse


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    records = store.list(
        status=options.status,
        tags=dict(options.tag),
        since=options.since,
        until=options.until,
        after=None if options.after is None else find_run(store, options.after, options),
        limit=options.limit,
    )
    if options.json:
        output.json([run_to_dict(record) for record in records])
    elif records:
        _print_table(records, output)
        if len(records) == options.limit:
            output.line(f"older runs: {_next_page(records[-1], options)}", "dim")
    else:
        output.line(_explain_empty(store, options))
    return 0


def _next_page(last: RunRecord, options: argparse.Namespace) -> str:
    """Return the command that lists the runs after the last one, with the same filters."""
    words = ["runs"]
    for status in options.status or ():
        words += ["--status", status]
    for name, value in options.tag:
        words += ["--tag", f"{name}={value}"]
    for option in ("since", "until"):
        moment = vars(options)[option]
        if moment is not None:
            words += [f"--{option}", moment.isoformat(timespec="seconds")]
    if options.limit != LIMIT:
        words += ["--limit", str(options.limit)]
    if options.utc:
        words.append("--utc")
    return format_command(options, *words, "--after", last.run_id)


def _explain_empty(store: RunStore, options: argparse.Namespace) -> str:
    count = sum(store.stats().values())
    if count:
        return f"no run matches; the store has {count} run{'s' if count > 1 else ''}"
    return (
        "no runs are stored. A run is stored if it has a run_id and its scheduler a store: "
        "TaskScheduler(runs=RunStore(…))"
    )


def _print_table(records: List[RunRecord], output: Output) -> None:
    header = ["RUN", "STATUS", "CREATED", "DURATION", "TASKS", "TOKENS", "FLOW", "ERROR"]
    rows = []
    for record in records:
        tokens = record.usage.total_tokens
        rows.append(
            [
                record.run_id,
                record.status.value,
                output.cell_time(record.created),
                format_seconds(record.seconds),
                describe_counts(record),
                f"{tokens:,}" if tokens else "",
                record.flow or "",
                record.error or "",
            ]
        )
    kept = _choose_columns(header, rows, output.width)
    output.table(
        [header[index] for index in kept],
        [[row[index] for index in kept] for row in rows],
        [STATUS_STYLES.get(record.status.value) for record in records],
        numbers=[kept.index(index) for index in (3, 5) if index in kept],
        texts=[kept.index(index) for index in (0, 4, 6, 7) if index in kept],
    )


def _choose_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: Optional[int]
) -> List[int]:
    """Return the columns that have values. On a narrow terminal, those that matter less are left
    out until the others fit."""
    kept = [index for index in range(len(header)) if any(row[index] for row in rows)]
    for dropped in (5, 6, 4, 3):
        widths = [
            max(
                width_of(escape_line(text))
                for text in [header[index]] + [row[index] for row in rows]
            )
            for index in kept
        ]
        needed = [
            min(one, ERROR_COLUMNS) if kept[at] == 7 else one for at, one in enumerate(widths)
        ]
        if width is None or sum(needed) + 2 * (len(needed) - 1) <= width:
            break
        kept = [index for index in kept if index != dropped]
    return kept


COMMAND = Command(
    "List the stored runs, the newest first.",
    [
        "runs --cache runs.db",
        "runs --status parked --tag tenant=7",
        "runs --since 2h --json",
        "runs --cache redis://localhost:6379/0",
    ],
    {NOT_FOUND: "there is no such file; or no run with the id of --after"},
    add_arguments,
    execute,
)
