"""`asimov-sync chat`: a conversation with an agent on the terminal."""

import io
import sys

import pytest

from ..tiers import suite
from .terminal import open_terminal

MODULE = '''\
"""An agent with a tool that needs approval, whose model answers as it is asked."""

from asimov_sync import Agent, Cancellation, tool
from asimov_sync.testing import Failure, ScriptedInferenceClient, calls, last_text


@tool(requires_approval=True)
def pay(amount: int, to: str) -> str:
    """Pay an amount."""
    return f"paid {amount} to {to}"


@tool
def look(city: str) -> str:
    """Look at the weather."""
    return f"{city}: rain\\x1b[2J"


def answer(body):
    content = body["messages"][-1]["content"]
    if isinstance(content, list) and content[-1]["type"] == "tool_result":
        return f"The tool: {content[-1]['content']}"
    text = last_text(body)
    if text == "wait":
        Cancellation.current().wait()
    if text == "long":
        return ScriptedInferenceClient(["A long"]).generate("x").model_copy(
            update={"stop_reason": "max_tokens", "raw_stop_reason": "max_tokens"}
        )
    if text == "fail":
        return Failure(400)
    if text == "pay":
        return calls(("pay", {"amount": 500, "to": "eve"}))
    if text == "look":
        return calls(("look", {"city": "Rome"}))
    questions = [one for one in body["messages"] if one["role"] == "user"]
    return f"\\x1b]0;title\\x07Answer {len(questions)}."


client = ScriptedInferenceClient(answer, max_retries=0)
agent = Agent(client, tools=[pay, look], name="clerk\\x1b[0m")
number = 7
'''


@pytest.fixture
def module(write_module):
    return write_module(MODULE)


@pytest.fixture
def chat(command, module, monkeypatch):
    """A function that sends lines to the chat, which are not from a terminal."""

    def send(*lines, name="agent"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        return command("chat", f"{module}:{name}")

    return send


def test_lines(chat):
    """Each line is a question of one conversation. Nothing in an answer acts on the terminal."""
    escaped = "\\x1b]0;title\\x07"
    assert chat("one", "", "two") == (0, f"{escaped}Answer 1.\n{escaped}Answer 2.\n", "")
    assert chat("one", name="client")[1] == f"{escaped}Answer 1.\n"
    status, _, err = chat(name="number")
    assert status == 2 and "is 7, not an Agent or a client" in err


def test_tools(chat):
    """Calls of tools are shown. Without a terminal, a call that needs approval is refused."""
    status, out, _ = chat("look", "pay")
    assert status == 0 and "\x1b" not in out
    assert '→ look(city="Rome")\n← Rome: rain\\x1b[2J\nThe tool: Rome: rain\\x1b[2J\n' in out
    assert "tool      pay\n  amount  500\n  to      eve\n" in out
    assert "refused: nobody is there to approve it\n" in out


def test_an_incomplete_answer(chat):
    """An answer that the model did not end by itself is marked as incomplete."""
    assert chat("long")[1] == "A long\nthe answer is incomplete: max_tokens\n"


def test_a_failure(chat):
    """A question that fails is an error message, and not part of the conversation."""
    status, out, err = chat("one", "fail", "two")
    assert status == 1 and out.endswith("Answer 2.\n")
    assert err.count("\n") == 1 and "InvalidRequestError" in err


@suite
def test_a_terminal(folder, module):
    """On a terminal, approvals are asked for, Ctrl-C stops a reply, and Ctrl-D ends the chat."""
    with open_terminal(folder, "chat", f"{module}:agent", NO_COLOR="1") as terminal:
        terminal.expect("Ctrl-D ends the chat.")
        terminal.expect("you: ")
        terminal.type("one\n")
        terminal.expect("clerk\\x1b[0m: \\x1b]0;title\\x07Answer 1.\r\n")
        terminal.expect("you: ")
        terminal.type("wait\n")
        terminal.expect("clerk")
        terminal.type("\x03")
        terminal.expect("stopped; this exchange is not part of the conversation")
        terminal.expect("you: ")
        terminal.type("pay\n")
        terminal.expect("  amount  500")
        terminal.expect("approve? ")
        terminal.type("e\n")
        terminal.expect('arguments: {"amount": 500, "to": "eve"}')
        terminal.type("\x15" + '{"amount": "much", "to": "bob"}\n')  # Ctrl-U deletes the line
        terminal.expect("amount")
        terminal.expect("approve? ")
        terminal.type("e\n")
        terminal.expect('arguments: {"amount": 500')
        terminal.type("\x15" + '{"amount": 5, "to": "bob"}\n')
        terminal.expect("← paid 5 to bob")
        terminal.expect("you: ")
        terminal.type("two\n")
        terminal.expect("Answer 4.")  # "pay" is a part of the conversation, "wait" is not
        terminal.expect("you: ")
        terminal.type("\x04")
        assert terminal.wait() == 0
    assert "\x1b]0" not in terminal.text
