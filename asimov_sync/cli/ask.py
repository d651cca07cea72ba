"""Asks a person on the terminal, with the line editing of readline where Python has it."""

import sys
from typing import Any, Dict, Optional

from asimov_sync._json import loads
from asimov_sync.cli.output import Output, format_json
from asimov_sync.cli.text import escape_line

__all__ = ["Decided", "ask", "ask_arguments", "ask_decision", "can_ask"]

YES = ("y", "yes")
NO = ("n", "no")
EDIT = ("e", "edit")


def can_ask(output: Output) -> bool:
    """Return whether a person is at the terminal."""
    return output.is_terminal and sys.stdin is not None and sys.stdin.isatty()


def ask(question: str, prefilled: str = "") -> Optional[str]:
    """Return the line that a person enters; None at the end of the input (Ctrl-D).

    question: the text before it.
    prefilled: a text that the person may edit, where Python has readline.
    """
    readline = _load_readline()
    if readline is not None and prefilled:
        readline.set_startup_hook(lambda: readline.insert_text(prefilled))
    try:
        return input(escape_line(question))
    except (EOFError, KeyboardInterrupt) as end:
        if sys.stdin.isatty():
            print()  # the next text begins a line
        if isinstance(end, KeyboardInterrupt):
            raise
        return None
    finally:
        if readline is not None:
            readline.set_startup_hook()


def _load_readline() -> Any:
    try:
        import readline  # importing it gives input() its line editing
    except ImportError:  # Windows
        return None
    return readline


class Decided:
    """The decision of a person about a tool call.

    approved: whether it is approved.
    reason: for a refusal, the reason; may be empty.
    arguments: for an approval, edited arguments; None for those of the model.
    """

    def __init__(
        self, approved: bool, reason: str = "", arguments: Optional[Dict[str, Any]] = None
    ) -> None:
        self.approved = approved
        self.reason = reason
        self.arguments = arguments


def ask_decision(arguments: Dict[str, Any], output: Output) -> Optional[Decided]:
    """Ask whether a tool call that was shown is approved. Return None if nothing was decided.

    arguments: the arguments of the call, to be edited.
    """
    while True:
        answer = ask("approve? [y]es, [n]o, [e]dit the arguments: ")
        if answer is None:
            return None
        answer = answer.strip().lower()
        if answer in YES:
            return Decided(True)
        if answer in NO:
            return Decided(False, (ask("reason, which the model receives: ") or "").strip())
        if answer in EDIT:
            edited = ask_arguments(arguments, output)
            if edited is not None:
                return Decided(True, arguments=edited)


def ask_arguments(arguments: Dict[str, Any], output: Output) -> Optional[Dict[str, Any]]:
    """Return the arguments as a person edits them; None if the person gives up."""
    text = format_json(arguments)
    while True:
        entered = ask("arguments: ", text)
        if not entered:
            return None
        try:
            edited = loads(entered)
        except ValueError as error:
            output.line(f"this is not JSON: {error}", "red")
        else:
            if isinstance(edited, dict):
                return edited
            output.line("the arguments are a JSON object", "red")
        text = entered
