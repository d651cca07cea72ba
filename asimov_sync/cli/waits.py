"""Waits: what runs wait for, shown to a person, with the command that answers it."""

import argparse
import datetime
import getpass
import shlex
from typing import Any, List, Mapping, Optional, Sequence

from asimov_sync.cli.output import Output, format_argument, format_value
from asimov_sync.cli.records import describe_type
from asimov_sync.cli.store import format_command
from asimov_sync.cli.text import escape_line
from asimov_sync.graph.journal import Wait
from asimov_sync.messages import ToolCall
from asimov_sync.runs.status import RunStatus
from asimov_sync.runs.store import RunRecord

__all__ = ["call_fields", "format_resume", "login_name", "print_wait", "print_waits"]


def print_waits(waits: Sequence[Wait], options: argparse.Namespace, output: Output) -> None:
    """Print waits: the prompt, the data, what the answer must be, and what to type."""
    names = [wait.name for wait in waits]
    for number, wait in enumerate(waits):
        if number:
            output.line()
        if wait.call is not None:
            words = ["approve", wait.run_id, wait.name]
        else:
            words = ["answer", wait.run_id, wait.name, _example_of(wait)]
            if names.count(wait.name) > 1:
                words += ["--task", wait.task]
        command = ("to answer", format_command(options, *words), "bold")
        output.fields([*_wait_fields(wait, output), command])


def print_wait(wait: Wait, output: Output) -> None:
    """Print one wait, without what to type."""
    output.fields(_wait_fields(wait, output))


def _wait_fields(wait: Wait, output: Output) -> List[Sequence[str]]:
    if wait.call is not None:
        fields: List[Sequence[str]] = [
            ("approval", f"{wait.name} (task {wait.task})", "magenta"),
            *call_fields(wait.call),
        ]
    else:
        fields = [("wait", f"{wait.name} (task {wait.task})", "magenta")]
        if wait.prompt:
            fields.append(("prompt", wait.prompt))
        if wait.data is not None:
            fields.append(("data", format_value(wait.data)))
        fields.append(("type", describe_type(wait)))
    if wait.deadline is not None:
        moment = datetime.datetime.fromtimestamp(wait.deadline, datetime.timezone.utc)
        fields.append(("until", output.time(moment, seconds=True)))
    return fields


def call_fields(call: ToolCall) -> List[Sequence[str]]:
    """Return the name and the arguments of a tool call, for `Output.fields`."""
    fields: List[Sequence[str]] = [("tool", call.name, "bold")]
    fields += [(f"  {name}", format_argument(value)) for name, value in call.arguments.items()]
    return fields


def _example_of(wait: Wait) -> str:
    schema: Any = wait.type
    if not isinstance(schema, Mapping):
        return "VALUE"
    choices = schema.get("enum")
    if isinstance(choices, list) and choices and isinstance(choices[0], str):
        return choices[0]
    examples: Mapping[Any, str] = {"boolean": "yes", "string": "TEXT", "integer": "1"}
    kind = schema.get("type")
    return examples.get(kind, "JSON") if isinstance(kind, str) else "JSON"


def format_resume(record: RunRecord, options: argparse.Namespace) -> str:
    """Return how a run that nobody drives is continued, as a sentence."""
    if record.status is RunStatus.RUNNING:
        return "its driver continues with it"
    if record.flow is None:
        return f"to continue the run, run its graph again with run_id={record.run_id!r}"
    scheduler = options.scheduler or "MODULE:SCHEDULER"
    return f"to continue the run: asimov-sync work {shlex.quote(escape_line(scheduler))} --once"


def login_name() -> Optional[str]:
    """Return the name of the user of this process; None if the system has none."""
    try:
        return getpass.getuser()
    except Exception:  # an OSError or a KeyError, by the release of Python
        return None
