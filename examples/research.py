"""Answer a question from text files: search them at once, have a model digest those that say something of it, merge.

    python examples/research.py "What happens to a message when its reader is killed?"
    python examples/research.py "Where do bees keep their honey?" bees.txt hives.txt

Without files it reads the documentation of this project. With ANTHROPIC_API_KEY set it asks the real API (ANTHROPIC_MODEL says
which model); without, a stand-in on this machine that quotes the passages word for word.
"""

import argparse
import contextlib
import os
import pathlib
import re
import sys
from typing import Any, Dict, Iterator, List, Optional, Set

from asimov_sync import (
    AnthropicInferenceClient,
    InferenceClient,
    RunFinished,
    Task,
    TaskContext,
    TaskFinished,
    TaskGraph,
    TaskProgress,
    TaskScheduler,
)
from asimov_sync.testing import ModelServer, last_text

ROOT = pathlib.Path(__file__).parent.parent
PASSAGES = 5  # of a file, that are given to the model


def words(text: str) -> Set[str]:
    """The words that a search is for: those of four letters or more, without the ends that grammar gives them."""
    return {re.sub(r"(ing|ed|es|s|e)$", "", word) for word in re.findall(r"[^\W\d_]{4,}", text.lower())}


def shared(text: str, question: str) -> int:
    """How many of the question's words a text has."""
    return len(words(text) & words(question))


def stand_in(body: Dict[str, Any]) -> str:
    """In place of a model: the sentence of the sources that has most of the question's words. It makes none up."""
    question, _, sources = last_text(body).partition("\n\n")
    sentences = [" ".join(one.split()) for one in re.split(r"(?<=[.!?:])\s+(?=[A-Z*`])|\n\n+", sources)]
    return max(sentences, key=lambda sentence: (shared(sentence, question), -len(sentence)))


@contextlib.contextmanager
def model() -> Iterator[InferenceClient]:
    """A client of the real API, or of the stand-in."""
    with contextlib.ExitStack() as stack:
        if os.environ.get("ANTHROPIC_API_KEY"):
            client = AnthropicInferenceClient(model=os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))
        else:
            print("No ANTHROPIC_API_KEY is set: a stand-in on this machine quotes sentences.", file=sys.stderr)
            server = stack.enter_context(ModelServer(stand_in))
            client = AnthropicInferenceClient(model="stand-in", api_key="none", api_url=server.url)
        yield stack.enter_context(client)


class Research:
    """The handlers, of one question."""

    def __init__(self, client: InferenceClient, question: str) -> None:
        self.client = client
        self.question = question

    def search(self, task: Task, context: TaskContext) -> Dict[str, Any]:
        """The passages of a file that share words with the question, the best first."""
        path = task.params["item"]
        with open(path, encoding="utf-8") as file:
            passages = [passage for passage in re.split(r"\n\s*\n", file.read()) if re.match(r"[^\s.|=]", passage)]  # prose
        found = [passage for passage in passages if shared(passage, self.question)]
        best = sorted(found, key=lambda passage: -shared(passage, self.question))[:PASSAGES]
        context.report(1, "{} of {} passages".format(len(found), len(passages)))
        return {"path": path, "passages": best}

    def collect(self, task: Task, context: TaskContext) -> List[str]:
        """Spawn a digest for every file that has something, and the answer that waits for them all."""
        sources = [found for found in context.inputs.values() if found["passages"]]
        if not sources:
            raise LookupError("no file says anything of this question")
        digests = [
            context.spawn(Task(type="digest", objective=self.question, params=source), name="digest " + source["path"])
            for source in sources
        ]
        context.spawn(Task(type="answer", objective=self.question), name="answer", depends_on=digests, allow_failure=True)
        return [source["path"] for source in sources]

    def digest(self, task: Task, context: TaskContext) -> str:
        """What one file says of the question."""
        return self._ask("Answer with what this file says of it, in one sentence.", task.params["passages"])

    def answer(self, task: Task, context: TaskContext) -> str:
        """The answer, from the digests."""
        return self._ask("Answer in one sentence, from these notes alone.", list(context.inputs.values()))

    def _ask(self, system: str, texts: List[str]) -> str:
        return self.client.generate("\n\n".join([self.question] + texts), system=system).text


def build(paths: List[str]) -> TaskGraph:
    """A search for each file, and what collects their results; the rest of the run is spawned."""
    graph = TaskGraph()
    graph.map(Task(type="search"), paths, name="search")
    graph.add(Task(type="collect"), name="collect", depends_on="search", allow_failure=True)
    return graph


def main(arguments: Optional[List[str]] = None) -> int:
    """The command: 0 for an answer from all files, 1 for one with gaps or none."""
    parser = argparse.ArgumentParser(prog="research.py", description="Answer a question from text files.")
    parser.add_argument("question")
    parser.add_argument("files", nargs="*", metavar="FILE", help="a text file in UTF-8")
    options = parser.parse_args(arguments)
    paths = options.files or [str(path) for path in sorted(ROOT.glob("docs/*.rst"))]
    with model() as client:
        research = Research(client, options.question)
        handlers = {name: getattr(research, name) for name in ("search", "collect", "digest", "answer")}
        with TaskScheduler(handlers) as scheduler, scheduler.stream(build(paths)) as events:
            for event in events:
                if isinstance(event, TaskProgress):
                    print("{}: {}".format(event.task.params["item"], event.text), file=sys.stderr)
                elif isinstance(event, TaskFinished):
                    told = ": {}".format(event.task.error) if event.task.error else ""
                    print("{} {}{}".format(event.name, event.task.status.name.lower(), told), file=sys.stderr)
                elif isinstance(event, RunFinished):
                    result = event.result
    if "answer" in result.results:
        print(result.results["answer"])
        for path in result.results["collect"]:
            print("- {}: {}".format(path, result.results.get("digest " + path, "(failed)")))
        print("({} requests, {} tokens)".format(result.usage.requests, result.usage.input_tokens + result.usage.output_tokens))
    return 0 if result.status.name == "COMPLETE" else 1


if __name__ == "__main__":
    sys.exit(main())
