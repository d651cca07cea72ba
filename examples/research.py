"""Answer a question from text files: search them in parallel, digest the matches, and merge.

    python examples/research.py "What happens to a message when its reader is killed?"
    python examples/research.py "Where do bees keep their honey?" bees.txt hives.txt

Without files it reads the documentation of this project. With ANTHROPIC_API_KEY set it asks the
real API (ANTHROPIC_MODEL names the model). Otherwise a stand-in on this machine quotes sentences.
"""

import argparse
import pathlib
import re
import sys
from typing import Any, Dict, List, Optional, Set

from model import open_client

from asimov_sync import (
    InferenceClient,
    RunFinished,
    Task,
    TaskContext,
    TaskFinished,
    TaskGraph,
    TaskProgress,
    TaskScheduler,
)
from asimov_sync.testing import last_text

ROOT = pathlib.Path(__file__).parent.parent
MAX_PASSAGES = 5
"""The maximum number of passages of one file that the model reads."""


def words(text: str) -> Set[str]:
    """Return the words of four letters or more, without their grammatical endings."""
    found = re.findall(r"[^\W\d_]{4,}", text.lower())
    return {re.sub(r"(ing|ed|es|s|e)$", "", word) for word in found}


def overlap(text: str, question: str) -> int:
    """Return the number of words that a text shares with the question."""
    return len(words(text) & words(question))


def stand_in(body: Dict[str, Any]) -> str:
    """Reply like a model: quote the sentence that shares the most words with the question."""
    question, _, sources = last_text(body).partition("\n\n")
    sentences = re.split(r"(?<=[.!?:])\s+(?=[A-Z*`])|\n\n+", sources)
    sentences = [" ".join(sentence.split()) for sentence in sentences]
    return max(sentences, key=lambda sentence: (overlap(sentence, question), -len(sentence)))


class Research:
    """The handlers for one question."""

    def __init__(self, client: InferenceClient, question: str) -> None:
        self.client = client
        self.question = question

    def search(self, task: Task, context: TaskContext) -> Dict[str, Any]:
        """Find the passages of a file that share words with the question, the best first."""
        path = task.params["item"]
        with open(path, encoding="utf-8") as file:
            passages = re.split(r"\n\s*\n", file.read())
        passages = [passage for passage in passages if re.match(r"[^\s.|=]", passage)]  # prose only
        found = [passage for passage in passages if overlap(passage, self.question)]
        found.sort(key=lambda passage: -overlap(passage, self.question))
        context.report(1, f"{len(found)} of {len(passages)} passages")
        return {"path": path, "passages": found[:MAX_PASSAGES]}

    def collect(self, task: Task, context: TaskContext) -> List[str]:
        """Add a digest task for every file with passages, and the answer task that needs them."""
        sources = [found for found in context.inputs.values() if found["passages"]]
        if not sources:
            raise LookupError("no file says anything of this question")
        digests = [
            context.spawn(
                Task(type="digest", objective=self.question, params=source),
                name=f"digest {source['path']}",
            )
            for source in sources
        ]
        answer = Task(type="answer", objective=self.question)
        context.spawn(answer, name="answer", depends_on=digests, allow_failure=True)
        return [source["path"] for source in sources]

    def digest(self, task: Task, context: TaskContext) -> str:
        """Answer the question from one file."""
        system = "Answer with what this file says about it, in one sentence."
        return self._ask(system, task.params["passages"])

    def answer(self, task: Task, context: TaskContext) -> str:
        """Answer the question from the digests."""
        system = "Answer in one sentence, only from these notes."
        return self._ask(system, list(context.inputs.values()))

    def _ask(self, system: str, texts: List[str]) -> str:
        return self.client.generate("\n\n".join([self.question] + texts), system=system).text


def build(paths: List[str]) -> TaskGraph:
    """Build the graph: a search for each file, and a task that adds the rest of the run."""
    graph = TaskGraph()
    graph.map(Task(type="search"), paths, name="search")
    graph.add(Task(type="collect"), name="collect", depends_on="search", allow_failure=True)
    return graph


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command. Return 0 for an answer from all files, 1 for one with gaps or none."""
    parser = argparse.ArgumentParser(
        prog="research.py", description="Answer a question from text files."
    )
    parser.add_argument("question")
    parser.add_argument("files", nargs="*", metavar="FILE", help="a text file in UTF-8")
    options = parser.parse_args(arguments)
    paths = options.files or [str(path) for path in sorted(ROOT.glob("docs/*.rst"))]
    with open_client(stand_in, "a stand-in on this machine quotes sentences.") as client:
        research = Research(client, options.question)
        handlers = {
            "search": research.search,
            "collect": research.collect,
            "digest": research.digest,
            "answer": research.answer,
        }
        with TaskScheduler(handlers) as scheduler, scheduler.stream(build(paths)) as events:
            for event in events:
                if isinstance(event, TaskProgress):
                    print(f"{event.task.params['item']}: {event.text}", file=sys.stderr)
                elif isinstance(event, TaskFinished):
                    error = f": {event.task.error}" if event.task.error else ""
                    status = event.task.status.name.lower()
                    print(f"{event.name} {status}{error}", file=sys.stderr)
                elif isinstance(event, RunFinished):
                    result = event.result
    if "answer" in result.results:
        print(result["answer"])
        for path in result["collect"]:
            print(f"- {path}: {result.get(f'digest {path}', '(failed)')}")
        tokens = result.usage.input_tokens + result.usage.output_tokens
        print(f"({result.usage.requests} requests, {tokens} tokens)")
    return 0 if result.status.name == "COMPLETE" else 1


if __name__ == "__main__":
    sys.exit(main())
