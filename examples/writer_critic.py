"""Shorten a text until it fits: a writer writes, a critic counts, and sends it back until it accepts or has had enough.

    python examples/writer_critic.py --words 40 README.rst
    python examples/writer_critic.py --words 5 --visits 8 notes.txt

With ANTHROPIC_API_KEY set the writer is a real model (ANTHROPIC_MODEL says which); without, a stand-in on this machine that
can do one thing: leave out a sentence. The critic is plain code, so what it accepts is what was asked for.
"""

import argparse
import collections
import contextlib
import os
import re
import sys
from typing import Any, Dict, Iterator, List, Optional

from asimov_sync import (
    AnthropicInferenceClient,
    InferenceClient,
    Route,
    Task,
    TaskContext,
    TaskFinished,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.testing import ModelServer, last_text

WORD = re.compile(r"\w[\w'-]*")
TEXT, DRAFT, CRITICISM = "The text:\n\n", "\n\nYour last draft:\n\n", "\n\nWhat is wrong with it: "


def stand_in(body: Dict[str, Any]) -> str:
    """In place of a model: the text as it is; then its last draft without the sentence that says least of the text's words."""
    text, _, rest = last_text(body).partition(DRAFT)
    text = text.partition(TEXT)[2]
    draft, _, criticism = rest.partition(CRITICISM)
    if not criticism:
        return " ".join(text.split())
    counts = collections.Counter(word for word in WORD.findall(text.lower()) if len(word) > 3)
    sentences = re.split(r"(?<=[.!?])\s+", draft)
    if len(sentences) > 1:
        weights = [sum(counts[word] for word in set(WORD.findall(sentence.lower()))) for sentence in sentences]
        del sentences[weights.index(min(weights))]
    return " ".join(sentences)


@contextlib.contextmanager
def model() -> Iterator[InferenceClient]:
    """A client of the real API, or of the stand-in."""
    with contextlib.ExitStack() as stack:
        if os.environ.get("ANTHROPIC_API_KEY"):
            client = AnthropicInferenceClient(model=os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))
        else:
            print("No ANTHROPIC_API_KEY is set: a stand-in on this machine leaves out sentences.", file=sys.stderr)
            server = stack.enter_context(ModelServer(stand_in))
            client = AnthropicInferenceClient(model="stand-in", api_key="none", api_url=server.url)
        yield stack.enter_context(client)


class Writer:
    """Handles "write": a draft of the text in the task's params, or the next one, after what the critic said of the last."""

    def __init__(self, client: InferenceClient) -> None:
        self.client = client

    def __call__(self, task: Task, context: TaskContext) -> str:
        asked: str = TEXT + task.params["text"]
        if "check" in context.feedback:  # what the Route that led here brought
            asked += DRAFT + context.feedback["check"]["draft"] + CRITICISM + context.feedback["check"]["criticism"]
        return self.client.generate(asked, system=task.objective).text


def check(task: Task, context: TaskContext) -> Any:
    """Handles "check": goes on with a draft that fits, and back to the writer with one that does not."""
    draft = context.inputs["write"]
    count = len(WORD.findall(draft))
    if count <= task.params["words"]:
        return {"draft": draft, "count": count}
    criticism = "It has {} words, {} too many.".format(count, count - task.params["words"])
    return Route("write", result={"draft": draft, "criticism": criticism})


def build(text: str, words: int, visits: int) -> TaskGraph:
    """The loop: each of the two is started `visits` times at most."""
    graph = TaskGraph()
    objective = "Say what the text says, in at most {} words. Answer with the draft alone.".format(words)
    graph.add(Task(type="write", objective=objective, params={"text": text}), name="write", max_visits=visits)
    graph.add(Task(type="check", params={"words": words}), name="check", depends_on="write", max_visits=visits)
    return graph


def main(arguments: Optional[List[str]] = None) -> int:
    """The command: 0 for a text that fits, 1 for the last draft of one that does not, 2 for a file that cannot be read."""
    parser = argparse.ArgumentParser(prog="writer_critic.py", description="Shorten a text until it fits.")
    parser.add_argument("file", metavar="FILE", help="a text file in UTF-8")
    parser.add_argument("--words", type=int, default=50, help="how many words it may have (50)")
    parser.add_argument("--visits", type=int, default=20, help="how often the writer may write (20)")
    options = parser.parse_args(arguments)
    try:
        with open(options.file, encoding="utf-8") as file:
            text = file.read().strip()
        graph = build(text, options.words, options.visits)
    except (OSError, ValueError) as error:
        print("writer_critic.py: {}".format(error), file=sys.stderr)
        return 2
    with model() as client, TaskScheduler({"write": Writer(client), "check": check}) as scheduler:

        @scheduler.on_event
        def tell(event: Any) -> None:
            """Each draft is told as it was judged; a task that a loop goes back to finishes once for every visit."""
            if isinstance(event, TaskFinished) and event.name == "check":
                told = event.task.error or event.task.result.get("criticism", "It fits.")
                print("check: {}".format(told), file=sys.stderr)

        result = scheduler.run(graph)
    if "check" in result.results:
        print(result.results["check"]["draft"])
        return 0
    # Out of visits: the critic has FAILED, for it could not go back once more; what the writer wrote last is still there.
    print(result.results.get("write", "(There is no draft.)"))
    for name, told in result.errors.items():
        print("{} failed: {}".format(name, told), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
