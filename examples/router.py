"""Route each question to a specialist: a model chooses one, and plain functions answer.

    python examples/router.py "What is 12 * (3 + 4)?" "On which weekday was 2024-02-29?"
    python examples/router.py "How many letters has 'strawberry'?"

With ANTHROPIC_API_KEY set a real model chooses (ANTHROPIC_MODEL names it). Otherwise a stand-in on
this machine compares the words of the question with those of the descriptions. If a specialist
cannot answer, the program prints why, and the other questions are answered.
"""

import argparse
import ast
import datetime
import operator
import re
import sys
from typing import Any, Dict, List, Optional, Set

from model import open_client

from asimov_sync import ModelRouter, Task, TaskContext, TaskGraph, TaskScheduler
from asimov_sync.testing import calls, last_text

CHOICES = {
    "calculate": "what numbers come to, such as 1 + 2 * 3 - 4 / 5",
    "calendar": "the weekday of a date: Monday to Sunday, for dates such as 2000-01-31",
    "count": "how many letters a word has, or how often it has a letter; the word is in quotes",
    "decline": "everything else",
}
"""The choices of the router: names of tasks, and what each task is for."""

OPERATORS: Dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def stand_in(body: Dict[str, Any]) -> Any:
    """Reply like a model: choose the description that shares the most words with the question."""
    choices = re.findall(r'<choice name="(.*?)">\n(.*?)\n</choice>', body["system"])
    question = tokens(last_text(body))
    scores = {name: len(tokens(description) & question) for name, description in choices}
    best = max(scores, key=lambda name: scores[name])
    choice = best if scores[best] else choices[-1][0]
    return calls((body["tool_choice"]["name"], {"choice": choice}))


def tokens(text: str) -> Set[str]:
    """Return the words of a text, and its arithmetic operators between spaces."""
    return set(re.findall(r"[a-z]{4,}|(?<=\s)[-+*/](?=\s)", text.lower()))


def calculate(task: Task, context: TaskContext) -> str:
    """Evaluate the longest arithmetic expression in the question."""
    expressions = re.findall(r"[\d(][\d\s.()*/+-]*", task.objective)
    if not expressions:
        raise ValueError("there is no number in the question")
    tree = ast.parse(max(expressions, key=len).strip(), mode="eval")
    return f"{evaluate(tree.body):g}"


def evaluate(node: ast.AST) -> float:
    """Evaluate an expression of numbers and the four operators."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return float(OPERATORS[type(node.op)](evaluate(node.left), evaluate(node.right)))
    return float(ast.literal_eval(node))  # ValueError if it is not a number


def calendar(task: Task, context: TaskContext) -> str:
    """Return the weekday of the first date in the question."""
    date = re.search(r"(\d{4})-(\d\d)-(\d\d)", task.objective)
    if date is None:
        raise ValueError("there is no date in the question")
    return datetime.date(*map(int, date.groups())).strftime("%A")


def count(task: Task, context: TaskContext) -> str:
    """Count the letters of the quoted word, or how often it contains the other quoted text."""
    quoted = sorted(re.findall(r"['\"](\w+)['\"]", task.objective), key=len)
    if not quoted:
        raise ValueError("there is nothing in quotes in the question")
    return str(quoted[-1].count(quoted[0]) if len(quoted) > 1 else len(quoted[0]))


def decline(task: Task, context: TaskContext) -> str:
    """Answer questions that fit no specialist."""
    return "I cannot tell."


def join(task: Task, context: TaskContext) -> str:
    """Return the answer of the chosen specialist. The skipped ones are not among the inputs."""
    answers = {name: answer for name, answer in context.inputs.items() if name != "choose"}
    return "\n".join(f"{answer} ({name})" for name, answer in answers.items())


def question_graph(question: str) -> TaskGraph:
    """Build the graph of one question: the router, the specialists, and the task `join`."""
    graph = TaskGraph()
    graph.add(Task(type="choose", objective=question), name="choose")
    for name in CHOICES:
        graph.add(Task(type=name, objective=question), name=name, depends_on="choose")
    graph.add(Task(type="join"), name="join", depends_on=list(CHOICES))
    return graph


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command. Return 0 if all questions were answered, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="router.py", description="Route each question to a specialist."
    )
    parser.add_argument("questions", nargs="+", metavar="QUESTION")
    questions = parser.parse_args(arguments).questions
    graph = TaskGraph()
    for number, question in enumerate(questions, 1):
        graph.add_graph(question_graph(question), name=str(number))  # tasks "1.choose", "1.count" …
    with open_client(stand_in, "a stand-in on this machine compares words.") as client:
        handlers: Dict[str, Any] = {
            "choose": ModelRouter(client, CHOICES, voters=3, default="decline"),
            "calculate": calculate,
            "calendar": calendar,
            "count": count,
            "decline": decline,
            "join": join,
        }
        with TaskScheduler(handlers) as scheduler:
            result = scheduler.run(graph)
    for number, question in enumerate(questions, 1):
        answer = result.results.get(f"{number}.join")
        if answer is None:
            prefix = f"{number}."
            errors = [text for name, text in result.errors.items() if name.startswith(prefix)]
            answer = f"no answer: {'; '.join(errors)}"
        print(f"{question}\n    {answer}")
    return 0 if result.status.name == "COMPLETE" else 1


if __name__ == "__main__":
    sys.exit(main())
