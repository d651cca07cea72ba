"""Shorten a text until it fits: a writer writes, and a critic counts words and sends it back.

    python examples/writer_critic.py --words 40 README.rst
    python examples/writer_critic.py --words 5 --visits 8 notes.txt

With ANTHROPIC_API_KEY set the writer is a real model (ANTHROPIC_MODEL names it). Otherwise it is a
stand-in on this machine that leaves out a third of the sentences at a time. The critic is plain
code.
"""

import argparse
import collections
import re
import sys
from typing import Any, Dict, List, Optional

from model import open_client

from asimov_sync import (
    InferenceClient,
    Route,
    Task,
    TaskContext,
    TaskFinished,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.testing import last_text

WORD = re.compile(r"\w[\w'-]*")
TEXT, DRAFT, CRITICISM = "The text:\n\n", "\n\nYour last draft:\n\n", "\n\nWhat is wrong with it: "


def stand_in(body: Dict[str, Any]) -> str:
    """Reply like a model: the text itself, or a shorter draft than the last one.

    A shorter draft leaves out a third of the sentences: those with the fewest words that are
    frequent in the text. If only one sentence is left, it loses a quarter of its words.
    """
    text, _, rest = last_text(body).partition(DRAFT)
    text = text.partition(TEXT)[2]
    draft, _, criticism = rest.partition(CRITICISM)
    if not criticism:
        return " ".join(text.split())
    counts = collections.Counter(word for word in WORD.findall(text.lower()) if len(word) > 3)
    sentences = re.split(r"(?<=[.!?])\s+", draft)
    if len(sentences) == 1:  # perhaps a long one, such as code
        return " ".join(draft.split()[: max(1, len(draft.split()) * 3 // 4)])
    words = [set(WORD.findall(sentence.lower())) for sentence in sentences]
    weights = [sum(counts[word] for word in sentence) for sentence in words]
    order = sorted(range(len(sentences)), key=weights.__getitem__)
    left_out = set(order[: max(1, len(sentences) // 3)])
    sentences = [text for index, text in enumerate(sentences) if index not in left_out]
    return " ".join(sentences)


class Writer:
    """Handles "write": drafts the text in the task's params, and improves a criticized draft."""

    def __init__(self, client: InferenceClient) -> None:
        self.client = client

    def __call__(self, task: Task, context: TaskContext) -> str:
        prompt: str = TEXT + task.params["text"]
        feedback = context.feedback.get("check")  # the result of the Route that led back here
        if feedback:
            prompt += DRAFT + feedback["draft"] + CRITICISM + feedback["criticism"]
        return self.client.generate(prompt, system=task.objective).text


def check(task: Task, context: TaskContext) -> Any:
    """Handle "check": accept a draft that fits, or route back to the writer."""
    draft = context.inputs["write"]
    count = len(WORD.findall(draft))
    if count <= task.params["words"]:
        return {"draft": draft, "count": count}
    criticism = f"It has {count} words, {count - task.params['words']} too many."
    return Route("write", result={"draft": draft, "criticism": criticism})


def build(text: str, words: int, visits: int) -> TaskGraph:
    """Build the loop: each of the two tasks starts at most `visits` times."""
    graph = TaskGraph()
    objective = (
        f"Say what the text says, in at most {words} words. Answer with nothing but the draft."
    )
    write = Task(type="write", objective=objective, params={"text": text})
    graph.add(write, name="write", max_visits=visits)
    check = Task(type="check", params={"words": words})
    graph.add(check, name="check", depends_on="write", max_visits=visits)
    return graph


def print_verdict(event: Any) -> None:
    """Print the verdict on each draft. A task in a loop finishes once for every visit."""
    if isinstance(event, TaskFinished) and event.name == "check":
        verdict = event.task.error or event.task.result.get("criticism", "It fits.")
        print(f"check: {verdict}", file=sys.stderr)


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command.

    Return 0 for a text that fits, 1 for a last draft that does not, 2 for an unreadable file.
    """
    parser = argparse.ArgumentParser(
        prog="writer_critic.py", description="Shorten a text until it fits."
    )
    parser.add_argument("file", metavar="FILE", help="a text file in UTF-8")
    parser.add_argument("--words", type=int, default=50, help="the maximum number of words (50)")
    parser.add_argument("--visits", type=int, default=20, help="the maximum number of drafts (20)")
    options = parser.parse_args(arguments)
    try:
        with open(options.file, encoding="utf-8") as file:
            text = file.read().strip()
        graph = build(text, options.words, options.visits)
    except (OSError, ValueError) as error:
        print(f"writer_critic.py: {error}", file=sys.stderr)
        return 2
    with open_client(stand_in, "a stand-in on this machine leaves out sentences.") as client:
        with TaskScheduler({"write": Writer(client), "check": check}) as scheduler:
            scheduler.on_event(print_verdict)
            result = scheduler.run(graph)
    if "check" in result.results:
        print(result["check"]["draft"])
        return 0
    # Out of visits: the critic failed because it could not go back again. The last draft is kept.
    print(result.get("write", "(There is no draft.)"))
    for name, error_text in result.errors.items():
        print(f"{name} failed: {error_text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
