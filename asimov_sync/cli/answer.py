"""`asimov-sync answer`: answers a question that a run waits for."""

import argparse
from typing import Any, List, Mapping

from asimov_sync._json import loads
from asimov_sync.cli.ask import ask, can_ask
from asimov_sync.cli.command import Command, CommandError, NotFound, UsageError
from asimov_sync.cli.exit_status import FAILED, NOT_FOUND, OK, PARKED
from asimov_sync.cli.options import add_by_option, add_run_id
from asimov_sync.cli.output import Output, format_value
from asimov_sync.cli.store import add_store_options, find_run, format_command, open_store
from asimov_sync.cli.waits import format_resume, login_name, print_wait, print_waits
from asimov_sync.errors import AsimovError
from asimov_sync.graph.journal import Wait
from asimov_sync.runs.schema import check_answer
from asimov_sync.runs.store import RunRecord, RunStore

__all__ = ["COMMAND", "read_answer"]

_MISSING = object()
_WORDS = {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run_id(parser)
    parser.add_argument("wait", metavar="WAIT", nargs="?", help="the name of the wait")
    parser.add_argument(
        "value",
        metavar="VALUE",
        nargs="?",
        help="the answer: the text itself if the wait is for a text, yes or no if it is for a "
        "bool, otherwise JSON",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="the task that waits, if several wait under one name"
    )
    add_by_option(parser)
    add_store_options(parser)


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    record = find_run(store, options.run_id, options)
    waits = [
        wait
        for wait in store.waits(record.run_id)
        if options.wait in (None, wait.name) and options.task in (None, wait.task)
    ]
    questions = [wait for wait in waits if wait.call is None]
    if not questions:
        raise _explain_none(record, waits, options)
    if options.value is None:
        return _ask_for_each(store, record, questions, options, output)
    if len(questions) > 1:
        names = ", ".join(repr(wait.task) for wait in questions)
        raise UsageError(
            f"several tasks wait for {options.wait!r}: name one with --task, of {names}"
        )
    wait = questions[0]
    _answer(store, wait, read_answer(wait, options.value), options, output)
    output.line(format_resume(store.get(record.run_id), options), "dim")
    return OK


def _explain_none(
    record: RunRecord, waits: List[Wait], options: argparse.Namespace
) -> CommandError:
    """Return the error for a run in which no such question is open."""
    if waits:
        name = waits[0].name
        command = format_command(options, "approve", record.run_id, name)
        return UsageError(f"{name!r} waits for an approval: {command}")
    answered = [
        wait.name
        for task in record.tasks.values()
        for wait in task.waits
        if options.wait == wait.name and options.task in (None, wait.task)
    ]
    if answered:
        return CommandError(f"{options.wait!r} was answered already: the first answer counts")
    what = "nothing" if options.wait is None else f"no {options.wait!r}"
    return NotFound(
        f"run {record.run_id} ({record.status.value}) waits for {what}; "
        f"`{format_command(options, 'show', record.run_id)}` shows what it waits for"
    )


def _answer(
    store: RunStore, wait: Wait, value: Any, options: argparse.Namespace, output: Output
) -> None:
    """Post an answer. Raises UsageError if it does not fit."""
    try:
        won = store.answer(
            wait.run_id, wait.name, value, task=wait.task, by=options.by or login_name()
        )
    except AsimovError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not won:
        raise CommandError(f"{wait.name!r} was answered already: the first answer counts")
    output.line(f"answered {wait.name} of task {wait.task} with {format_value(value)}")


def _ask_for_each(
    store: RunStore,
    record: RunRecord,
    questions: List[Wait],
    options: argparse.Namespace,
    output: Output,
) -> int:
    """Ask the person at the terminal; elsewhere, show what to type."""
    if not can_ask(output):
        print_waits(questions, options, output)
        return PARKED
    for wait in questions:
        print_wait(wait, output)
        while True:
            text = ask("your answer: ")
            if text is None:
                return PARKED
            try:
                _answer(store, wait, read_answer(wait, text), options, output)
                output.line()
                break
            except UsageError as error:
                output.line(str(error), "red")
    output.line(format_resume(store.get(record.run_id), options), "dim")
    return OK


def read_answer(wait: Wait, text: str) -> Any:
    """Return the value that a person means by a text, by the type of the wait.

    A text is taken as it is where the type accepts a string and nothing else that the text may be
    as JSON. "yes" and "no" are bools where the type accepts one. Without a type, and where the type
    accepts both, the text is JSON if it can be.
    """
    try:
        parsed = loads(text)
    except ValueError:
        parsed = _MISSING
    word = _WORDS.get(text.strip().lower())
    schema = wait.type
    if schema is None:
        return text if parsed is _MISSING else parsed
    if parsed is not _MISSING and not isinstance(parsed, str) and _fits(schema, parsed):
        return parsed
    if _fits(schema, text):
        return text
    if word is not None and _fits(schema, word):
        return word
    return text if parsed is _MISSING else parsed


def _fits(schema: Mapping[str, Any], value: Any) -> bool:
    try:
        check_answer(schema, value)
    except ValueError:
        return False
    return True


COMMAND = Command(
    "Answer a question that a run waits for. Without VALUE, ask for it on a terminal, and\n"
    "elsewhere show the questions. The first answer counts.",
    [
        "answer order-7 agreed yes",
        "answer order-7 comment 'Looks good.' --by ann",
        """answer order-7 address '{"city": "Rome"}' --cache runs.db""",
        "answer order-7          # asks for each open answer",
    ],
    {
        FAILED: "it was answered already",
        PARKED: "no VALUE was given: nothing was answered",
        NOT_FOUND: "there is no such file, run or wait",
    },
    add_arguments,
    execute,
)
