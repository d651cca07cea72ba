"""No text of a run, wherever it is stored, acts on the terminal."""

import io
import sys

import pytest

from asimov_sync import Agent, Partial, Task, TaskGraph, ToolCall, tool
from asimov_sync.testing import ScriptedInferenceClient

from ..tiers import suite

EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\r\x08\x7f\u202e\u2066\u200f\u2028\ufeff\U000e0041end"


def leaves_the_terminal_alone(text):
    """Return whether a text has nothing but printable characters and line feeds."""
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.fixture
def hostile(scheduler):
    """A run, "r", with such a text in everything that a run, a task, a model and a tool can say."""

    def broken(task, context):
        context.report(0.5, EVIL, data={EVIL: EVIL})
        raise LookupError(EVIL)

    def half(task, context):
        return Partial([EVIL], EVIL)

    def ask(task, context):
        return context.wait_for(EVIL, prompt=EVIL, data={EVIL: EVIL})

    @tool(requires_approval=True)
    def pay(to: str) -> str:
        """Pay."""
        return EVIL

    def answer(body):
        return [EVIL, ToolCall(id=EVIL, name="pay", arguments={"to": EVIL, EVIL: EVIL})][-1]

    scheduler.handlers["clerk"] = Agent(ScriptedInferenceClient(answer), tools=[pay])
    graph = TaskGraph(EVIL)
    graph.add(broken, name="broken" + EVIL, objective=EVIL)
    graph.add(half, name="half" + EVIL, objective=EVIL)
    graph.add(ask, name="ask" + EVIL, objective=EVIL)
    graph.add(Task(type="clerk", objective=EVIL), name="clerk")
    result = scheduler.run(graph, run_id="r", tags={EVIL: EVIL})
    assert set(result.waiting) == {"ask" + EVIL, "clerk"}
    return result


@suite
@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["runs", "--json"],
        ["show", "r"],
        ["show", "r", "--json"],
        ["show", "r", "broken" + EVIL],
        ["show", "r", "half" + EVIL],
        ["show", "r", "absent" + EVIL],
        ["watch", "r"],
        ["watch", "r", "--json"],
        ["answer", "r"],
        ["answer", "r", EVIL, EVIL],
        ["answer", "r", "absent" + EVIL, "x"],
        ["approve", "r"],
        ["approve", "r", EVIL, "--arguments", "{}"],
        ["approve", "r", EVIL, "--refuse", EVIL],
        ["cancel", "r", "--reason", EVIL],
        ["retry", "r"],
        ["show", EVIL],
        ["runs", "--cache", "absent" + EVIL],
        ["graph", "absent" + EVIL],
    ],
)
def test_no_text_acts_on_the_terminal(command, hostile, arguments):
    """Each command shows the texts of a hostile run, and prints printable characters only."""
    status, out, err = command(*arguments)
    assert status in (0, 1, 2, 3, 4)
    assert leaves_the_terminal_alone(out + err), (out, err)


def test_no_answer_acts_on_the_terminal(command, write_module, monkeypatch):
    """Neither does the text of a model in a chat, whatever its pieces."""
    name = write_module(
        "from asimov_sync import Agent\n"
        "from asimov_sync.testing import ScriptedInferenceClient\n"
        f"agent = Agent(ScriptedInferenceClient(lambda body: {EVIL!r} * 20), name={EVIL!r})\n"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    status, out, err = command("chat", f"{name}:agent")
    assert (status, err) == (0, "") and out.count("end") == 20
    assert leaves_the_terminal_alone(out)
