"""Digest files with an agent, and print the tree of OpenTelemetry spans.

    python examples/span_tree.py README.rst CHANGES.rst

With ANTHROPIC_API_KEY set, a real model reads the files (ANTHROPIC_MODEL names it). Otherwise a
stand-in on this machine calls the tool for the two longest words. Its first request fails as
overloaded. The task of a missing file fails, and its span shows the error. With
OTEL_EXPORTER_OTLP_ENDPOINT set (http://localhost:4318 for Jaeger, for example) the spans are
exported there as well; this needs the package opentelemetry-exporter-otlp-proto-http.
"""

import argparse
import importlib
import itertools
import os
import pathlib
import re
import sys
from typing import Any, Dict, Iterator, List, Optional, Sequence

from model import open_client
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asimov_sync import (
    Agent,
    InferenceClient,
    Task,
    TaskContext,
    TaskGraph,
    TaskScheduler,
    telemetry,
    tool,
)
from asimov_sync.testing import Failure, calls, last_text, tool_results

QUESTION = "What are its longest words, and how often are they used?"


def stand_in() -> Any:
    """Return a function that replies like a model: it calls `count` for the two longest words."""
    requests = itertools.count()

    def answer(body: Dict[str, Any]) -> Any:
        if next(requests) == 0:
            return Failure(529, headers={"retry-after": "0"})
        if tool_results(body):
            counts = [block["content"] for block in body["messages"][-1]["content"]]
            return "The longest words: " + ", ".join(counts) + "."
        words = sorted(
            set(re.findall(r"[a-z]+", last_text(body).lower())), key=lambda word: (-len(word), word)
        )
        return calls(*(("count", {"word": word}) for word in words[:2]))

    return answer


def digest_files(client: InferenceClient, paths: Sequence[pathlib.Path]) -> Dict[str, str]:
    """Return the agent's digest of each file that can be read."""
    texts: Dict[str, str] = {}

    @tool
    def count(word: str) -> str:
        """Count how often a word occurs in the files, ignoring case."""
        number = sum(text.lower().count(word.lower()) for text in list(texts.values()))
        return f"{word} ({number})"

    def read(task: Task, context: TaskContext) -> str:
        texts[context.name] = pathlib.Path(task.params["path"]).read_text(encoding="utf-8")
        return texts[context.name]

    graph = TaskGraph("digests")
    for path in paths:
        graph.add(Task(type="read", params={"path": str(path)}), name="read " + path.name)
        graph.add(
            Task(type="digest", objective=QUESTION),
            name="digest " + path.name,
            depends_on="read " + path.name,
        )
    agent = Agent(client, system="You are brief.", tools=[count], name="reader")
    with TaskScheduler({"read": read, "digest": agent}) as scheduler:
        result = scheduler.run(graph)
    return {
        name: str(answer) for name, answer in result.results.items() if name.startswith("digest ")
    }


def make_provider(memory: InMemorySpanExporter) -> TracerProvider:
    """Set up OpenTelemetry: keep the spans in memory, and export them if an endpoint is set."""
    tracers = TracerProvider(resource=Resource.create({"service.name": "span-tree"}))
    tracers.add_span_processor(SimpleSpanProcessor(memory))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        exporters: Any = importlib.import_module(
            "opentelemetry.exporter.otlp.proto.http.trace_exporter"
        )
        tracers.add_span_processor(BatchSpanProcessor(exporters.OTLPSpanExporter()))
    return tracers


def format_tree(
    spans: Sequence[ReadableSpan], parent: Optional[int] = None, indent: str = ""
) -> Iterator[str]:
    """Yield a line for each span below `parent`, with its duration, its tokens and its error."""
    children = [span for span in spans if (span.parent.span_id if span.parent else None) == parent]
    for span in sorted(children, key=lambda span: span.start_time or 0):
        attributes: Dict[str, Any] = dict(span.attributes or {})
        milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
        line = f"{indent}{span.name}  {milliseconds:.1f} ms"
        tokens = [attributes.get(f"gen_ai.usage.{kind}_tokens") for kind in ("input", "output")]
        if tokens[0] is not None:
            line += f"  {tokens[0]} + {tokens[1]} tokens"
        yield line + ("  " + attributes["error.type"] if "error.type" in attributes else "")
        context = span.get_span_context()
        if context is not None:
            yield from format_tree(spans, context.span_id, indent + "    ")


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command. Return 0 if all files were digested, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="span_tree.py", description="Digest files with an agent, and print the spans."
    )
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    files = parser.parse_args(arguments).files
    memory = InMemorySpanExporter()
    tracers = make_provider(memory)
    telemetry.install(tracer_provider=tracers)
    with open_client(stand_in(), "a stand-in on this machine counts words.") as client:
        answers = digest_files(client, files)
    telemetry.uninstall()
    tracers.shutdown()  # exports the remaining spans
    for name, answer in answers.items():
        print(f"{name}: {answer}")
    print("\n" + "\n".join(format_tree(memory.get_finished_spans())))
    return 0 if len(answers) == len(files) else 1


if __name__ == "__main__":
    sys.exit(main())
