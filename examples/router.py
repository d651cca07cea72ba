"""Send each question to the one who can answer it: a model chooses among three specialists, and code gives the answers.

    python examples/router.py "What is 12 * (3 + 4)?" "On which weekday was 2024-02-29?" "How many letters has 'strawberry'?"

With ANTHROPIC_API_KEY set a real model chooses (ANTHROPIC_MODEL says which); without, a stand-in on this machine that compares
the words of the question with those of the descriptions. Whoever chooses: where a specialist can do nothing with a question,
that is told, and the other questions are answered all the same.
"""

import argparse
import ast
import contextlib
import datetime
import operator
import os
import re
import sys
from typing import Any, Dict, Iterator, List, Optional

from asimov_sync import AnthropicInferenceClient, InferenceClient, ModelRouter, Task, TaskContext, TaskGraph, TaskScheduler
from asimov_sync.testing import ModelServer, calls, last_text

CHOICES = {
    "calculate": "what numbers come to, such as 1 + 2 * 3 - 4 / 5",
    "calendar": "the weekday of a date: Monday to Sunday, for dates such as 2000-01-31",
    "count": "how many letters a word has, or how often it has a letter; the word is in quotes",
    "decline": "everything else",
}
OPERATORS: Dict[type, Any] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def stand_in(body: Dict[str, Any]) -> Any:
    """In place of a model: the choice whose description has most of the question's words; the last one if none has any."""
    choices = re.findall(r'<choice name="(.*?)">\n(.*?)\n</choice>', body["system"])
    told = {name: len(tokens(description) & tokens(last_text(body))) for name, description in choices}
    best = max(told, key=lambda name: told[name])
    return calls((body["tool_choice"]["name"], {"choice": best if told[best] else choices[-1][0]}))


def tokens(text: str) -> Any:
    """The words of a text, and the signs of arithmetic that stand by themselves."""
    return set(re.findall(r"[a-z]{4,}|(?<=\s)[-+*/](?=\s)", text.lower()))


@contextlib.contextmanager
def model() -> Iterator[InferenceClient]:
    """A client of the real API, or of the stand-in."""
    with contextlib.ExitStack() as stack:
        if os.environ.get("ANTHROPIC_API_KEY"):
            client = AnthropicInferenceClient(model=os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))
        else:
            print("No ANTHROPIC_API_KEY is set: a stand-in on this machine compares words.", file=sys.stderr)
            server = stack.enter_context(ModelServer(stand_in))
            client = AnthropicInferenceClient(model="stand-in", api_key="none", api_url=server.url)
        yield stack.enter_context(client)


def calculate(task: Task, context: TaskContext) -> str:
    """What the longest piece of arithmetic in the question comes to."""
    pieces = re.findall(r"[\d(][\d\s.()*/+-]*", task.objective)
    return "{:g}".format(value(ast.parse(max(pieces, key=len).strip(), mode="eval").body)) if pieces else refuse("no numbers")


def value(node: ast.AST) -> float:
    """The value of an expression of numbers and the four operations."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return float(OPERATORS[type(node.op)](value(node.left), value(node.right)))
    return float(ast.literal_eval(node))  # a number, or a ValueError


def calendar(task: Task, context: TaskContext) -> str:
    """The weekday of the first date in the question."""
    found = re.search(r"(\d{4})-(\d\d)-(\d\d)", task.objective)
    return datetime.date(*map(int, found.groups())).strftime("%A") if found else refuse("no date")


def count(task: Task, context: TaskContext) -> str:
    """How many letters the quoted word has, or how often it has the other thing in quotes."""
    quoted = sorted(re.findall(r"['\"](\w+)['\"]", task.objective), key=len)
    return str(quoted[-1].count(quoted[0]) if len(quoted) > 1 else len(quoted[0])) if quoted else refuse("nothing in quotes")


def refuse(reason: str) -> str:
    """Fail the task that this is called in."""
    raise ValueError("there is {} in the question".format(reason))


def decline(task: Task, context: TaskContext) -> str:
    """Nobody knows."""
    return "I cannot tell."


def join(task: Task, context: TaskContext) -> str:
    """The answer of the one that was chosen, and who that is; the others were ruled out, and are not in the inputs."""
    return "\n".join("{} ({})".format(answer, name) for name, answer in context.inputs.items() if name != "choose")


def question_graph(question: str) -> TaskGraph:
    """For one question: the choice, those who may be chosen, and what joins them."""
    graph = TaskGraph()
    graph.add(Task(type="choose", objective=question), name="choose")
    for name in CHOICES:
        graph.add(Task(type=name, objective=question), name=name, depends_on="choose")
    graph.add(Task(type="join"), name="join", depends_on=list(CHOICES))
    return graph


def main(arguments: Optional[List[str]] = None) -> int:
    """The command: 0 if all questions were answered, 1 if one was not."""
    parser = argparse.ArgumentParser(prog="router.py", description="Send each question to the one who can answer it.")
    parser.add_argument("questions", nargs="+", metavar="QUESTION")
    questions = parser.parse_args(arguments).questions
    graph = TaskGraph()
    for number, question in enumerate(questions, 1):
        graph.add_graph(question_graph(question), name=str(number))  # its tasks are "1.choose", "1.count" …
    handlers = {"calculate": calculate, "calendar": calendar, "count": count, "decline": decline, "join": join}
    with model() as client:
        router = ModelRouter(client, CHOICES, voters=3, default="decline")  # a name of a task is a choice
        with TaskScheduler(dict(handlers, choose=router)) as scheduler:
            result = scheduler.run(graph)
    for number, question in enumerate(questions, 1):
        prefix = "{}.".format(number)
        errors = [error for name, error in result.errors.items() if name.startswith(prefix)]
        print("{}\n    {}".format(question, result.results.get(prefix + "join") or "no answer: " + "; ".join(errors)))
    return 0 if result.status.name == "COMPLETE" else 1


if __name__ == "__main__":
    sys.exit(main())
