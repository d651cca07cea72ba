"""`asimov-sync approve`: approves or refuses a tool call that waits for approval."""

import argparse
from typing import Any, Dict, List, Optional

from asimov_sync._json import loads
from asimov_sync.cli.ask import Decided, ask_decision, can_ask
from asimov_sync.cli.command import Command, CommandError, NotFound, UsageError
from asimov_sync.cli.exit_status import FAILED, NOT_FOUND, OK, PARKED
from asimov_sync.cli.options import add_by_option, add_run_id
from asimov_sync.cli.output import Output
from asimov_sync.cli.store import add_store_options, find_run, format_command, open_store
from asimov_sync.cli.waits import format_resume, login_name, print_wait, print_waits
from asimov_sync.errors import AsimovError
from asimov_sync.graph.journal import Wait
from asimov_sync.inference.tools.approvals import Approval, Approved, Refused
from asimov_sync.runs.store import RunRecord, RunStore

__all__ = ["COMMAND", "decide_calls"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run_id(parser)
    parser.add_argument("call", metavar="CALL_ID", nargs="?", help="the id of the tool call")
    decision = parser.add_mutually_exclusive_group()
    decision.add_argument("--yes", action="store_true", help="approve the call as it is")
    decision.add_argument(
        "--arguments",
        metavar="JSON",
        type=_read_arguments,
        help="approve the call with these arguments, a JSON object, in place of the model's",
    )
    decision.add_argument(
        "--refuse", metavar="REASON", help="refuse the call; the model receives the reason"
    )
    add_by_option(parser)
    add_store_options(parser)


def _read_arguments(text: str) -> Dict[str, Any]:
    try:
        arguments = loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise argparse.ArgumentTypeError("a JSON object, such as '{\"amount\": 20}'")
    return arguments


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    store = open_store(options)
    record = find_run(store, options.run_id, options)
    decided = _decision_of(options)
    if decided is not None and options.call is None:
        raise UsageError("name the call: --yes, --arguments and --refuse decide about one CALL_ID")
    waits = [
        wait
        for wait in store.waits(record.run_id)
        if wait.call is not None and options.call in (None, wait.name)
    ]
    if not waits:
        raise _explain_none(record, options)
    if decided is None and not can_ask(output):
        print_waits(waits, options, output)
        return PARKED
    if not decide_calls(store, waits, decided, options.by, output):
        return PARKED
    output.line(format_resume(store.get(record.run_id), options), "dim")
    return OK


def decide_calls(
    store: RunStore,
    waits: List[Wait],
    decided: Optional[Decided],
    by: Optional[str],
    output: Output,
) -> bool:
    """Show the calls that wait, and store a decision about each.

    decided: the decision; None to ask the person at the terminal.
    by: who decides; by default the login name.

    Returns False if the person left without a decision. Raises UsageError if it does not fit.
    """
    for wait in waits:
        print_wait(wait, output)
        if decided is not None:
            _decide(store, wait, decided, by, output)
        elif not _ask(store, wait, by, output):
            return False
    return True


def _decision_of(options: argparse.Namespace) -> Optional[Decided]:
    if options.yes:
        return Decided(True)
    if options.arguments is not None:
        return Decided(True, arguments=options.arguments)
    return None if options.refuse is None else Decided(False, options.refuse)


def _explain_none(record: RunRecord, options: argparse.Namespace) -> CommandError:
    """Return the error for a run in which no such call waits."""
    call: Optional[str] = options.call
    decided = [
        wait.name
        for task in record.tasks.values()
        for wait in task.waits
        if wait.call is not None and call in (None, wait.name)
    ]
    if call is not None and decided:
        return CommandError(f"{call!r} was decided already: the first decision counts")
    what = "no call" if call is None else f"no call {call!r}"
    return NotFound(
        f"{what} of run {record.run_id} ({record.status.value}) waits for approval; "
        f"`{format_command(options, 'show', record.run_id)}` shows what it waits for"
    )


def _ask(store: RunStore, wait: Wait, by: Optional[str], output: Output) -> bool:
    """Ask about a call until there is a decision that fits. Return whether there is one."""
    assert wait.call is not None
    while True:
        decided = ask_decision(wait.call.arguments, output)
        if decided is None:
            return False
        try:
            _decide(store, wait, decided, by, output)
            return True
        except UsageError as error:
            output.line(str(error), "red")


def _decide(
    store: RunStore, wait: Wait, decided: Decided, by: Optional[str], output: Output
) -> None:
    """Store a decision, bound to the call as it was shown. Raises UsageError if it does not fit."""
    approval: Approval = (
        Approved(wait.call, decided.arguments) if decided.approved else Refused(decided.reason)
    )
    try:
        won = store.approve(
            wait.run_id, {wait.name: approval}, task=wait.task, by=by or login_name()
        )
    except AsimovError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not won:
        raise CommandError(f"{wait.name!r} was decided already: the first decision counts")
    edited = " with your arguments" if decided.arguments is not None else ""
    output.line(f"approved {wait.name}{edited}" if decided.approved else f"refused {wait.name}")


COMMAND = Command(
    "Approve or refuse a tool call that waits for approval. Without a decision, show the calls\n"
    "of the run with their arguments, and ask on a terminal. The first decision counts.",
    [
        "approve report-42                        # asks about each call",
        "approve report-42 call_1 --yes",
        "approve report-42 call_1 --refuse 'Too much.'",
        """approve report-42 call_1 --arguments '{"amount": 20}' --by ann""",
    ],
    {
        FAILED: "it was decided already",
        PARKED: "no decision was given: nothing was decided",
        NOT_FOUND: "there is no such file, run or call",
    },
    add_arguments,
    execute,
)
