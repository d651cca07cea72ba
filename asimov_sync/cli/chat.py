"""`asimov-sync chat`: a conversation with an agent on the terminal."""

import argparse
import logging
import sys
from typing import Any, Dict, List, Optional

from asimov_sync._json import format_error
from asimov_sync.agents.agent import COMPLETE_REASONS, Agent
from asimov_sync.cli.ask import ask, ask_decision, can_ask
from asimov_sync.cli.command import Command, UsageError
from asimov_sync.cli.exit_status import FAILED, INTERRUPTED, OK
from asimov_sync.cli.loading import is_from_user, load_object, print_user_traceback
from asimov_sync.cli.logs import show_log
from asimov_sync.cli.output import Output, format_json, format_value
from asimov_sync.cli.text import escape, escape_line, shorten
from asimov_sync.cli.waits import call_fields
from asimov_sync.display.words import format_tokens
from asimov_sync.errors import AsimovError
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.tools.approvals import Approval, Approved, Refused
from asimov_sync.inference.tools.loop import (
    HistoryCompacted,
    ToolFinished,
    ToolRun,
    ToolStarted,
)
from asimov_sync.messages import ChatMessage, Event, TextDelta, ThinkingDelta, ToolCall

__all__ = ["COMMAND"]

LINE_COLUMNS = 160
"""The most columns of a tool call or its result where the output is not a terminal."""

NOBODY = "nobody is there to approve it"
"""The reason for which calls are refused where no person is at a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "agent",
        metavar="MODULE:NAME",
        help="an Agent, or a client; the current folder is searched first",
    )


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    value = load_object(options.agent, "an agent", "myapp.agents:writer")
    if isinstance(value, InferenceClient):
        value = Agent(value)
    if not isinstance(value, Agent):
        raise UsageError(f"{options.agent} is {value!r}, not an Agent or a client")
    show_log(logging.WARNING)
    name = value.name or options.agent.partition(":")[2]
    return _Chat(value, escape_line(name), output).run()


class _Chat:
    """A conversation.

    agent, name: the agent, and its name as it is shown.
    output: where to print.
    """

    def __init__(self, agent: Agent, name: str, output: Output) -> None:
        self._agent = agent
        self._name = name
        self._output = output
        self._asks = can_ask(output)
        self._messages: List[ChatMessage] = []
        self._has_failed = False
        self._at_line_start = True
        self._follows_tool = False  # whether the last line is that of a tool
        self._is_named = False  # whether the line has the name of the agent and nothing else

    def run(self) -> int:
        """Converse until the end of the input. Returns the exit status."""
        if self._asks:
            self._output.line(
                f"A chat with {self._name}. Ctrl-C stops a reply, and Ctrl-D ends the chat.", "dim"
            )
        while True:
            try:
                question = ask("you: " if self._asks else "")
            except KeyboardInterrupt:
                if not self._asks:
                    raise
                continue
            if question is None:
                return FAILED if self._has_failed and not self._asks else OK
            if question.strip():
                try:
                    self._answer(question)
                except KeyboardInterrupt:  # a second one, while the first one is handled
                    if not self._asks:
                        raise

    def _answer(self, question: str) -> None:
        """Answer a question. Without a complete answer, the conversation stays as it was."""
        try:
            run: Optional[ToolRun] = self._stream(question, self._messages, None)
            while run is not None and run.pending:
                run = self._decide(run)
        except KeyboardInterrupt:
            if not self._asks:
                raise
            self._end_line()
            self._output.line("stopped; this exchange is not part of the conversation", "yellow")
            return
        except AsimovError as error:
            self._fail(format_error(error))
            return
        except Exception as error:
            if is_from_user(error):
                print_user_traceback(error)
            self._fail(format_error(error))
            return
        if run is None:
            self._output.line("this exchange is not part of the conversation", "yellow")
            return
        self._messages = run.messages
        if run.parsed is None and run.stop_reason not in COMPLETE_REASONS:
            self._output.line(f"the answer is incomplete: {run.stop_reason}", "yellow")
        if self._asks:
            self._output.line(f"{format_tokens(run.usage.total_tokens)} tokens", "dim")

    def _fail(self, message: str) -> None:
        self._erase_name()
        self._end_line()
        self._output.flush()
        self._has_failed = True
        print(self._output.style(escape(message), "red"), file=sys.stderr)

    # Replies

    def _stream(
        self, question: Any, messages: List[ChatMessage], approvals: Optional[Dict[str, Approval]]
    ) -> ToolRun:
        """Print the events of an answer as they arrive. Returns the whole exchange."""
        self._write_name()
        self._output.flush()
        with self._agent.stream(question, messages=messages, approvals=approvals) as stream:
            for event in stream:
                self._print(event)
            run = stream.run
        if run.pending or run.parsed is not None:
            self._erase_name()
        self._end_line()
        if run.parsed is not None:
            self._output.line(format_value(run.parsed))
        return run

    def _print(self, event: Event) -> None:
        output = self._output
        if isinstance(event, (TextDelta, ThinkingDelta)):
            text = escape(event.text)
            if text and self._follows_tool:
                self._write_name()
            output.write(output.style(text, "dim" if isinstance(event, ThinkingDelta) else None))
            if text:
                self._is_named = False
                self._at_line_start = text.endswith("\n")
        elif isinstance(event, ToolStarted):
            pairs = event.call.arguments.items()
            arguments = ", ".join(f"{name}={format_json(value)}" for name, value in pairs)
            self._print_line(f"→ {event.call.name}({arguments})")
        elif isinstance(event, ToolFinished):
            self._print_line(f"← {event.error or format_value(event.result)}")
        elif isinstance(event, HistoryCompacted):
            self._print_line(f"a summary replaces {event.removed} old messages")
        output.flush()

    def _print_line(self, text: str) -> None:
        self._erase_name()
        self._end_line()
        columns = self._output.width or LINE_COLUMNS
        self._output.line(shorten(escape_line(text), columns), "dim")
        self._follows_tool = True

    def _write_name(self) -> None:
        """Begin a reply with the name of the agent, on a terminal."""
        self._follows_tool = False
        if self._asks:
            self._output.write(self._output.style(f"{self._name}: ", "cyan"))
            self._at_line_start, self._is_named = False, True

    def _erase_name(self) -> None:
        """Erase the name of the agent, if nothing is behind it yet."""
        if self._is_named:
            self._output.erase_line()
            self._at_line_start, self._is_named = True, False

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._output.write("\n")
            self._at_line_start = True

    # Approvals

    def _decide(self, run: ToolRun) -> Optional[ToolRun]:
        """Have the pending calls decided, and continue. Return None if nothing was decided."""
        while True:
            approvals: Dict[str, Approval] = {}
            for call in run.pending:
                approval = self._ask(call)
                if approval is None:
                    return None
                approvals[call.id] = approval
            try:
                return self._stream((), run.messages, approvals)
            except AsimovError:
                raise
            except ValueError as error:  # edited arguments that do not fit the tool
                if is_from_user(error) or not self._asks:
                    raise
                self._end_line()
                self._output.line(str(error), "red")

    def _ask(self, call: ToolCall) -> Optional[Approval]:
        output = self._output
        output.fields(call_fields(call))
        if not self._asks:
            output.line(f"refused: {NOBODY}")
            return Refused(NOBODY)
        decided = ask_decision(call.arguments, output)
        if decided is None:
            return None
        return Approved(call, decided.arguments) if decided.approved else Refused(decided.reason)


COMMAND = Command(
    "Talk to an agent on the terminal. Its text is shown as it arrives, with the tools that it\n"
    "calls. Calls that need approval are shown with their arguments: y approves, n refuses, and e\n"
    "edits the arguments. Ctrl-C stops a reply, and Ctrl-D ends the chat. Where the input is not\n"
    "a terminal, each line is a question, and calls that need approval are refused.",
    [
        "chat myapp.agents:writer",
        "chat myapp.agents:writer < questions.txt",
    ],
    {
        FAILED: "without a terminal: a question was not answered",
        INTERRUPTED: "Ctrl-C, without a terminal",
    },
    add_arguments,
    execute,
)
