"""Watch a run: digest some files with an agent, and print the tree of spans that OpenTelemetry was told.

    python examples/span_tree.py README.rst CHANGES.rst

With ANTHROPIC_API_KEY set a real model reads (ANTHROPIC_MODEL says which); without, a stand-in on this machine, which has the
longest words of a file counted and is overloaded at its first request. A file that is not there is a task that fails, and
shows as one. With OTEL_EXPORTER_OTLP_ENDPOINT set (http://localhost:4318 is Jaeger's, say) the spans go there as well; that
takes the package opentelemetry-exporter-otlp-proto-http.
"""

import argparse
import contextlib
import importlib
import itertools
import os
import pathlib
import re
import sys
from typing import Any, Dict, Iterator, List, Optional, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    InferenceClient,
    Task,
    TaskContext,
    TaskGraph,
    TaskScheduler,
    telemetry,
    tool,
)
from asimov_sync.testing import Failure, ModelServer, calls, last_text, tool_results


@contextlib.contextmanager
def model() -> Iterator[InferenceClient]:
    """A client of the real API, or of the stand-in."""
    with contextlib.ExitStack() as stack:
        if os.environ.get("ANTHROPIC_API_KEY"):
            client = AnthropicInferenceClient(model=os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))
        else:
            print("No ANTHROPIC_API_KEY is set: a stand-in on this machine counts words.", file=sys.stderr)
            server = stack.enter_context(ModelServer(stand_in()))
            client = AnthropicInferenceClient(model="stand-in", api_key="none", api_url=server.url)
        yield stack.enter_context(client)


def stand_in() -> Any:
    """In place of a model: has the two longest words counted, and tells what came of that."""
    requests = itertools.count()

    def answer(body: Dict[str, Any]) -> Any:
        if next(requests) == 0:
            return Failure(529, headers={"retry-after": "0"})
        if tool_results(body):
            found = [block["content"] for block in body["messages"][-1]["content"]]
            return "The longest words: " + ", ".join(found) + "."
        words = sorted(set(re.findall(r"[a-z]+", last_text(body).lower())), key=lambda word: (-len(word), word))
        return calls(*(("count", {"word": word}) for word in words[:2]))

    return answer


def digests(client: InferenceClient, paths: Sequence[pathlib.Path]) -> Dict[str, str]:
    """What the agent says of each file that can be read."""
    texts: Dict[str, str] = {}

    @tool
    def count(word: str) -> str:
        """Count how often a word is in the files that were read, whatever its case."""
        return "{} ({})".format(word, sum(text.lower().count(word.lower()) for text in list(texts.values())))

    def read(task: Task, context: TaskContext) -> str:
        texts[context.name] = pathlib.Path(task.params["path"]).read_text(encoding="utf-8")
        return texts[context.name]

    graph = TaskGraph("digests")
    for path in paths:
        graph.add(Task(type="read", params={"path": str(path)}), name="read " + path.name)
        graph.add(
            Task(type="digest", objective="What are its longest words, and how often are they used?"),
            name="digest " + path.name,
            depends_on="read " + path.name,
        )
    agent = Agent(client, system="You are brief.", tools=[count], name="reader")
    with TaskScheduler({"read": read, "digest": agent}) as scheduler:
        result = scheduler.run(graph)
    return {name: str(answer) for name, answer in result.results.items() if name.startswith("digest ")}


def provider(memory: InMemorySpanExporter) -> TracerProvider:
    """OpenTelemetry's own set-up: spans go to the memory of this process, and to a server if there is one."""
    made = TracerProvider(resource=Resource.create({"service.name": "span-tree"}))
    made.add_span_processor(SimpleSpanProcessor(memory))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        exporters: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        made.add_span_processor(BatchSpanProcessor(exporters.OTLPSpanExporter()))
    return made


def tree(spans: Sequence[ReadableSpan], parent: Optional[int] = None, indent: str = "") -> Iterator[str]:
    """The spans as lines, each under its parent, with its milliseconds, its tokens, and its error if it has one."""
    children = [span for span in spans if (span.parent.span_id if span.parent else None) == parent]
    for span in sorted(children, key=lambda span: span.start_time or 0):
        told: Dict[str, Any] = dict(span.attributes or {})
        line = "{}{}  {:.1f} ms".format(indent, span.name, ((span.end_time or 0) - (span.start_time or 0)) / 1e6)
        if "gen_ai.usage.input_tokens" in told:
            line += "  {} + {} tokens".format(told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"])
        yield line + ("  " + told["error.type"] if "error.type" in told else "")
        own = span.get_span_context()
        if own is not None:
            yield from tree(spans, own.span_id, indent + "    ")


def main(arguments: Optional[List[str]] = None) -> int:
    """The command: 0 if all files were digested, 1 if one was not."""
    parser = argparse.ArgumentParser(
        prog="span_tree.py", description="Digest files with an agent, and print the spans of that."
    )
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    files = parser.parse_args(arguments).files
    memory = InMemorySpanExporter()
    tracers = provider(memory)
    telemetry.install(tracer_provider=tracers)
    with model() as client:
        answers = digests(client, files)
    telemetry.uninstall()
    tracers.shutdown()  # sends what is still to be sent
    for name, answer in answers.items():
        print("{}: {}".format(name, answer))
    print("\n" + "\n".join(tree(memory.get_finished_spans())))
    return 0 if len(answers) == len(files) else 1


if __name__ == "__main__":
    sys.exit(main())
