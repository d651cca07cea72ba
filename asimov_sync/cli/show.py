"""`asimov-sync show`: shows a run, or one task of it."""

import argparse
import datetime
from typing import Any, Dict, List, Mapping, Optional, Sequence

from asimov_sync.cli.command import Command, NotFound
from asimov_sync.cli.events import describe_event
from asimov_sync.cli.exit_status import NOT_FOUND, OK
from asimov_sync.cli.live import find_executing
from asimov_sync.cli.options import add_json_option, add_run_id, add_utc_option
from asimov_sync.cli.output import Output, format_usage, format_value
from asimov_sync.cli.records import (
    STATUS_STYLES,
    run_to_dict,
    task_status,
    task_to_dict,
)
from asimov_sync.cli.store import add_store_options, find_run, format_command, open_store
from asimov_sync.cli.waits import format_resume, print_waits
from asimov_sync.display.words import format_seconds
from asimov_sync.graph.journal import TaskRecord
from asimov_sync.runs.status import RunStatus
from asimov_sync.runs.store import RunRecord

__all__ = ["COMMAND"]

SHOWN_TASKS = 100
"""The number of tasks up to which all are listed. Of a larger run, those in NOTABLE are."""

SHOWN_NAMES = 20

NOTABLE = ("failed", "partial", "parked")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run_id(parser)
    parser.add_argument(
        "task", metavar="TASK", nargs="?", help="the name of a task, to show it in full"
    )
    add_json_option(parser)
    add_utc_option(parser)
    add_store_options(parser)


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    record = find_run(store, options.run_id, options)
    tasks = list(record.graph.values())
    running = record.status is RunStatus.RUNNING
    executing = find_executing(store, record.run_id) if running else {}
    if options.task is not None:
        _show_task(tasks, executing, options, output)
        return OK
    waits = store.waits(record.run_id)
    if options.json:
        value = run_to_dict(record)
        value["tasks"] = {task.name: task_to_dict(task, task.name in executing) for task in tasks}
        value["waits"] = [wait.to_dict() for wait in waits]
        output.json(value)
        return OK
    _print_run(record, output)
    if tasks:
        output.line()
        _print_tasks(tasks, executing, output)
    if waits:
        output.line()
        print_waits(waits, options, output)
    for line in _next_steps(record, bool(waits), options):
        output.line()
        output.line(line, "dim")
    return OK


def _print_run(record: RunRecord, output: Output) -> None:
    fields: List[Sequence[str]] = [
        ("run", record.run_id, "bold"),
        ("status", record.status.value, STATUS_STYLES.get(record.status.value) or "bold"),
    ]
    if record.flow is not None:
        arguments = ", ".join(f"{k}={format_value(v)}" for k, v in (record.args or {}).items())
        fields.append(("flow", f"{record.flow}({arguments})"))
    if record.tags:
        fields.append(("tags", ", ".join(f"{k}={v}" for k, v in sorted(record.tags.items()))))
    fields += [
        ("created", output.time(record.created, seconds=True)),
        ("updated", output.time(record.updated, seconds=True)),
        ("duration", format_seconds(record.seconds)),
    ]
    if record.usage.requests:
        fields.append(("usage", format_usage(record.usage)))
    if record.lease_until is not None:
        until = output.time(record.lease_until, seconds=True)
        fields.append(("driver", f"{record.owner}, until {until} unless it renews its lease"))
    elif record.status is RunStatus.ORPHANED:
        fields.append(("driver", f"{record.owner}; it died"))
    if record.error is not None:
        fields.append(("error", record.error, "red"))
    output.fields(fields)


def _print_tasks(
    tasks: List[TaskRecord], executing: Mapping[str, Mapping[str, Any]], output: Output
) -> None:
    shown = tasks
    if len(tasks) > SHOWN_TASKS:
        shown = [task for task in tasks if task_status(task) in NOTABLE or task.name in executing]
        shown = shown[:SHOWN_TASKS]
    rows = []
    for task in shown:
        event = executing.get(task.name)
        status = task_status(task, event is not None)
        tokens = 0 if task.usage is None else task.usage.total_tokens
        text = task.error or ("" if task.result is None else format_value(task.result))
        if event is not None and status == "executing":
            text = describe_event(event)
        rows.append(
            [
                task.name,
                status,
                "" if task.started is None else format_seconds(task.seconds),
                str(task.attempt) if task.attempt > 1 else "",
                f"{tokens:,}" if tokens else "",
                text,
            ]
        )
    header = ["TASK", "STATUS", "DURATION", "ATTEMPT", "TOKENS", "RESULT OR ERROR"]
    kept = [index for index in range(len(header)) if any(row[index] for row in rows)]
    output.table(
        [header[index] for index in kept],
        [[row[index] for index in kept] for row in rows],
        [STATUS_STYLES.get(row[1]) for row in rows],
        numbers=[kept.index(index) for index in (2, 3, 4) if index in kept],
    )
    if len(shown) < len(tasks):
        output.line(f"{len(tasks) - len(shown):,} more tasks; --json has all of them", "dim")


def _show_task(
    tasks: List[TaskRecord],
    executing: Mapping[str, Mapping[str, Any]],
    options: argparse.Namespace,
    output: Output,
) -> None:
    """Show one task in full. Raises NotFound if there is no such task."""
    found = [task for task in tasks if task.name == options.task]
    if not found:
        names = ", ".join(repr(one.name) for one in tasks[:SHOWN_NAMES]) or "none"
        raise NotFound(f"run {options.run_id} has no task {options.task!r}; it has {names}")
    event = executing.get(options.task)
    if options.json:
        output.json(task_to_dict(found[0], event is not None))
        return
    _print_task(found[0], event, output)


def _print_task(task: TaskRecord, event: Optional[Mapping[str, Any]], output: Output) -> None:
    status = task_status(task, event is not None)
    fields: List[Sequence[str]] = [
        ("task", task.name, "bold"),
        ("status", status, STATUS_STYLES.get(status) or "bold"),
        ("type", task.type),
    ]
    if task.objective:
        fields.append(("objective", task.objective))
    if task.depends_on:
        fields.append(("after", ", ".join(task.depends_on)))
    if task.spawned_by is not None:
        fields.append(("spawned by", task.spawned_by))
    if task.started is not None:
        fields.append(("started", output.time(_moment(task.started), seconds=True)))
        fields.append(("duration", format_seconds(task.seconds)))
    if task.attempt > 1:
        fields.append(("attempts", str(task.attempt)))
    if task.visit > 1:
        fields.append(("visits", str(task.visit)))
    if task.usage is not None and task.usage.requests:
        fields.append(("usage", format_usage(task.usage)))
    if task.waits:
        fields.append(("waits for", ", ".join(wait.name for wait in task.waits)))
    if task.error is not None:
        fields.append(("error", task.error, "red"))
    if event is not None and status == "executing":
        fields.append(("last sign", describe_event(event)))
    output.fields(fields)
    _print_spans(task, output)
    if task.result is not None:
        output.line()
        output.line(format_value(task.result))
    if task.exception is not None and task.exception.traceback:
        output.line()
        output.line(task.exception.traceback.rstrip("\n"))


def _print_spans(task: TaskRecord, output: Output) -> None:
    """Print the attempts of a task, its requests to models and its tool calls."""
    if not task.spans:
        return
    rows = []
    for span in task.spans:
        tokens = 0 if span.usage is None else span.usage.total_tokens
        duration = "" if span.seconds is None else format_seconds(span.seconds)
        rows.append(
            [span.kind, span.name, duration, f"{tokens:,}" if tokens else "", span.error or ""]
        )
    output.line()
    output.table(["SPAN", "NAME", "DURATION", "TOKENS", "ERROR"], rows, numbers=[2, 3])


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)


def _next_steps(record: RunRecord, waits: bool, options: argparse.Namespace) -> List[str]:
    """Return what to do with a run in its state, as docs/durability.rst has it.

    waits: whether it waits for an answer.
    """
    run_id = record.run_id
    resume = format_resume(record, options)
    texts: Dict[RunStatus, Optional[str]] = {
        RunStatus.RUNNING: f"to end it: {format_command(options, 'cancel', run_id)}",
        RunStatus.PARKED: f"after the answer, {resume}" if waits else f"it is answered; {resume}",
        RunStatus.INTERRUPTED: resume,
        RunStatus.ORPHANED: resume,
        RunStatus.PARTIAL: f"to run the failed tasks again: "
        f"{format_command(options, 'retry', run_id)}",
        RunStatus.FAILED: f"to run the failed tasks again: "
        f"{format_command(options, 'retry', run_id)}",
        RunStatus.CANCELLED: "it can only be started anew: with restart=True, or with "
        "`asimov-sync run … --restart`",
    }
    text = texts.get(record.status)
    return [] if text is None else [text]


COMMAND = Command(
    "Show a run: its tasks, what it waits for, and what to do next. Or show one task in full,\n"
    "with its result, or its error and traceback.",
    ["show report-42", "show report-42 fetch --cache runs.db", "show report-42 --json"],
    {NOT_FOUND: "there is no such file, run or task"},
    add_arguments,
    execute,
)
