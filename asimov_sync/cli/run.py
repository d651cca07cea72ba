"""`asimov-sync run`: runs a flow or a graph, and shows its progress and its result."""

import argparse
import contextlib
import datetime
import logging
import os
import shlex
import sys
import uuid
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from asimov_sync._json import format_error
from asimov_sync.cli.command import Command, CommandError, UsageError
from asimov_sync.cli.exit_status import FAILED, INTERRUPTED, OK, PARKED
from asimov_sync.cli.loading import is_from_user, print_user_traceback
from asimov_sync.cli.logs import show_log
from asimov_sync.cli.options import add_json_option, read_tag
from asimov_sync.cli.output import Output, format_value
from asimov_sync.cli.records import STATUS_STYLES
from asimov_sync.cli.store import CACHE_VARIABLE, hide_password, open_cache
from asimov_sync.cli.target import Target, add_target, build_graph, load_target, read_arguments
from asimov_sync.cli.text import escape_line
from asimov_sync.cli.waits import print_waits
from asimov_sync.errors import AsimovError
from asimov_sync.graph.results import RunResult
from asimov_sync.runs.status import RunStatus
from asimov_sync.runs.store import RunStore
from asimov_sync.scheduler import TaskScheduler
from asimov_sync.tasks import TaskStatus

__all__ = ["COMMAND", "exit_status_of", "print_result"]

SHOWN_RESULTS = 50
"""The number of results that are printed, and of failed and skipped tasks."""

SHOWN_FAILURES = 3
"""The number of failed tasks whose tracebacks are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_target(parser)
    parser.add_argument(
        "--run-id",
        metavar="RUN_ID",
        help="the id of the run: a new one, or that of a run to continue; by default a new one is "
        "made, if there is a store",
    )
    parser.add_argument(
        "--tag",
        action="append",
        type=read_tag,
        default=[],
        metavar="NAME=VALUE",
        help="a tag of the run, to find it by; may be repeated",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--retry-failed", action="store_true", help="run the failed tasks of the run again"
    )
    again.add_argument(
        "--restart", action="store_true", help="delete what is stored of the run, and start anew"
    )
    add_json_option(parser)
    group = parser.add_argument_group("the store").add_mutually_exclusive_group()
    group.add_argument(
        "--cache",
        metavar="PATH|URL",
        help="where to keep the run of a graph without a scheduler: a SQLite file, which is "
        f"created, or redis://host:port/db; by default ${CACHE_VARIABLE}",
    )
    group.add_argument(
        "--scheduler",
        metavar="MODULE:NAME",
        help="the scheduler that runs it; by default that of the same module, if it has one",
    )


class _Place(NamedTuple):
    """A place where a run is executed and kept.

    scheduler, path: the scheduler, and `module:name` of it; None if the command made it.
    store: its store; None if the run is not kept.
    """

    scheduler: TaskScheduler
    path: Optional[str]
    store: Optional[RunStore]


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    target = load_target(options.target, options.scheduler)
    arguments = read_arguments(target, options.arg)
    place = _find_place(target, options)
    run_id = options.run_id
    if place.store is None:
        given = [
            name for name in ("run_id", "tag", "restart", "retry_failed") if vars(options)[name]
        ]
        if given:
            raise UsageError(
                f"--{given[0].replace('_', '-')} needs a store: give --cache PATH or URL, or the "
                "scheduler runs=RunStore(…)"
            )
    elif run_id is None:
        run_id = _make_run_id(options.target)
    show_log(logging.WARNING)
    try:
        with _explaining_interrupts(options, run_id):
            result = _run(target, arguments, place, run_id, options)
        return _show(result, place, options, output)
    finally:
        if place.path is None:
            place.scheduler.close()


def _find_place(target: Target, options: argparse.Namespace) -> _Place:
    scheduler = target.scheduler
    if scheduler is not None:
        if options.cache is not None:
            raise UsageError(
                "--cache is for a graph without a scheduler: this one has a scheduler, whose store "
                "is used, TaskScheduler(…, runs=RunStore(…))"
            )
        return _Place(scheduler, target.path, scheduler.runs)
    address = options.cache or os.environ.get(CACHE_VARIABLE)
    store = RunStore(open_cache(address, must_exist=False)) if address else None
    return _Place(TaskScheduler(runs=store), None, store)


def _make_run_id(target: str) -> str:
    """Return a new id: the name of the flow or graph, the time, and some random characters."""
    name = "".join(one if one.isalnum() and one.isascii() else "-" for one in target.split(":")[1])
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{name[:100].strip('-') or 'run'}-{now}-{uuid.uuid4().hex[:4]}"


def _run(
    target: Target,
    arguments: Dict[str, Any],
    place: _Place,
    run_id: Optional[str],
    options: argparse.Namespace,
) -> RunResult:
    durable: Dict[str, Any] = {"run_id": run_id, "progress": True}
    if place.store is not None:
        durable.update(
            tags=dict(options.tag) or None,
            restart=options.restart,
            retry_failed=options.retry_failed,
        )
    scheduler = place.scheduler
    try:
        if target.flow is None:
            return scheduler.run(build_graph(target, options.arg), **durable)
        if not arguments and place.store is not None and not options.restart:
            with contextlib.suppress(KeyError):  # the stored arguments count
                if place.store.get(run_id or "").flow == target.flow:
                    del durable["run_id"]
                    return scheduler.resume(run_id or "", **durable)
        return scheduler.run(target.flow, args=arguments, **durable)
    except (AsimovError, CommandError):
        raise
    except Exception as error:
        if not is_from_user(error):  # an argument is wrong
            raise UsageError(str(error)) from None
        print_user_traceback(error)
        raise CommandError(f"the run could not be started: {format_error(error)}") from None


@contextlib.contextmanager
def _explaining_interrupts(options: argparse.Namespace, run_id: Optional[str]) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if run_id is not None:
            print(f"to continue the run: {_same_command(options, run_id)}", file=sys.stderr)
        raise


def _same_command(options: argparse.Namespace, run_id: str) -> str:
    """Return the command line that continues a run."""
    words = ["asimov-sync", "run", options.target, "--run-id", run_id]
    for name, value in options.arg:
        words += ["--arg", f"{name}={value}"]
    if options.cache is not None:
        words += ["--cache", hide_password(options.cache)]
    if options.scheduler is not None:
        words += ["--scheduler", options.scheduler]
    return " ".join(shlex.quote(escape_line(word)) for word in words)


def _show(result: RunResult, place: _Place, options: argparse.Namespace, output: Output) -> int:
    """Print a result. Returns the exit status for it."""
    if options.json:
        output.json(result.to_dict())
    elif result.status is TaskStatus.WAITING and place.store is not None:
        where = argparse.Namespace(cache=options.cache, scheduler=place.path)
        print_waits(place.store.waits(result.run_id), where, output)
        output.line()
        output.line(f"then continue it: {_same_command(options, result.run_id)}", "dim")
    else:
        print_result(result, output)
        if place.store is not None and result.status is not TaskStatus.COMPLETE:
            output.line()
            status = place.store.get(result.run_id).status
            text = f"run {result.run_id} is {status.value}"
            if status in (RunStatus.PARTIAL, RunStatus.FAILED):
                again = _same_command(options, result.run_id) + " --retry-failed"
                text += f"; to run its failed tasks again: {again}"
            output.line(text, "dim")
    return exit_status_of(result)


def exit_status_of(result: RunResult) -> int:
    """Return the exit status for the result of a run."""
    statuses = {TaskStatus.COMPLETE: OK, TaskStatus.WAITING: PARKED}
    return statuses.get(result.status, FAILED)


def print_result(result: RunResult, output: Output) -> None:
    """Print the results of the last tasks, and how other tasks failed.

    The result of a single last task is printed alone, for use in a pipe.
    """
    lasts = _last_tasks(result)
    found = [(name, result.results[name]) for name in lasts if name in result.results]
    if len(found) == 1 and result.status is TaskStatus.COMPLETE:
        output.line(format_value(found[0][1]))
        return
    output.fields([(name, format_value(value)) for name, value in found[:SHOWN_RESULTS]])
    if len(found) > SHOWN_RESULTS:
        output.line(f"{len(found) - SHOWN_RESULTS:,} more results; --json has all of them", "dim")
    failed = result.errors
    rows = [[name, result.tasks[name].status.value, error] for name, error in failed.items()]
    rows += [[name, "skipped", why] for name, why in result.skipped.items()]
    if result.status is TaskStatus.COMPLETE or not rows:
        return
    if found:
        output.line()
    shown = rows[:SHOWN_RESULTS]
    output.table(
        ["TASK", "STATUS", "ERROR"], shown, [STATUS_STYLES.get(status) for _, status, _ in shown]
    )
    if len(rows) > len(shown):
        output.line(f"{len(rows) - len(shown):,} more tasks without a result", "dim")
    if result.reason is not None:
        output.line(f"the run ended early: {result.reason}")
    for name, error in list(result.exceptions.items())[:SHOWN_FAILURES]:
        if isinstance(error, AsimovError) or error.__traceback__ is None:
            continue  # its text is in the table
        sys.stdout.flush()
        print(f"\ntask {escape_line(name)}:", file=sys.stderr)
        print_user_traceback(error)


def _last_tasks(result: RunResult) -> List[str]:
    """Return the names of the tasks on which no other task depends."""
    used = {name for record in result.records.values() for name in record.depends_on}
    return [name for name in result.records if name not in used]


COMMAND = Command(
    "Run a flow or a graph. The progress is on stderr, and the results of its last tasks on\n"
    "stdout. A run with a store is durable: the same command with its --run-id continues it.",
    [
        "run myapp.tasks:report --arg topic=bees --arg pages=3",
        "run myapp.tasks:report --run-id report-42     # starts it, or continues it",
        "run myapp.tasks:graph --cache runs.db --json",
    ],
    {
        FAILED: "a task failed, or the run could not be started",
        PARKED: "the run waits for answers; what to type is printed",
        INTERRUPTED: "Ctrl-C; a durable run is interrupted, and how to continue it is printed",
    },
    add_arguments,
    execute,
)
