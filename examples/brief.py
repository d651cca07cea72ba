"""Write a brief of text files: every section is digested by an agent, all of them at once, and then merged.

    python examples/brief.py README.rst CHANGES.rst
    python examples/brief.py --redis redis://localhost:6379/0 --output brief.md notes.txt

With ANTHROPIC_API_KEY set it asks the real API (ANTHROPIC_MODEL says which model); without, it starts a server of its own on
this machine, behind which a small summariser picks sentences. Digests are kept in a cache, so with --redis a section that
did not change since the last time costs nothing.
"""

import argparse
import collections
import hashlib
import os
import re
import sys
from contextlib import ExitStack
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from extractive_model import answer

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    Cache,
    CacheError,
    MemoryCache,
    RedisCache,
    RunFinished,
    RunResult,
    Task,
    TaskContext,
    TaskFinished,
    TaskGraph,
    TaskScheduler,
    tool,
)
from asimov_sync.testing import ModelServer

STAND_IN = "No ANTHROPIC_API_KEY is set: a small summariser on this machine picks sentences, in place of a language model."
COMMON = frozenset(
    "about after also because been before being both could does each every from have into itself more most much only other "
    "over same should some such than that their them then there these they this those through under until used uses using "
    "very were what when where which while will with without would your".split()
)


class Section(NamedTuple):
    """A piece of a source that is digested by itself."""

    source: str
    title: str
    text: str


class Unusable(Exception):
    """An input that no brief can be written of; the message says which, and why."""


# Reading


def read(path: str) -> str:
    """The text of a file. Unusable if there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise Unusable("{}: {}".format(path, error.strerror or error)) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unusable("{}: not a text file in UTF-8".format(path)) from None
    if "\0" in text:
        raise Unusable("{}: a binary file, not text".format(path))
    if not text.strip():
        raise Unusable("{}: the file is empty".format(path))
    return text


def sections(source: str, text: str) -> List[Section]:
    """A text cut at its headings, Markdown's or reStructuredText's; a text without headings is one section."""
    lines = text.splitlines()
    found: List[Tuple[str, List[str]]] = [(os.path.basename(source), [])]
    skip = 0
    for number, line in enumerate(lines):
        below = lines[number + 1] if number + 1 < len(lines) else ""
        if skip:
            skip -= 1
        elif re.match(r"#{1,6} +\S", line):
            found.append((line.strip("# "), []))
        elif line.strip() and re.match(r"([=\-~^\"*+#])\1{2,}\s*$", below) and len(below.strip()) >= len(line.strip()):
            found.append((line.strip(), []))
            skip = 1
        else:
            found[-1][1].append(line)
    cut = [Section(source, title, "\n".join(body).strip()) for title, body in found]
    return [section for section in cut if re.search(r"\w", section.text)] or [Section(source, found[0][0], text.strip())]


def term_counter(texts: Dict[str, str]) -> Any:
    """The tool that the agent is given: which words a whole source, of which it sees one section, repeats."""

    @tool
    def key_terms(source: str, limit: int = 15) -> Dict[str, int]:
        """Count the words that a whole document repeats most, of which you are given one section.

        source: the document's name, as in the params. limit: how many words.
        """
        if source not in texts:
            raise LookupError("there is no source {!r}; there are {}".format(source, ", ".join(texts)))
        words = re.findall(r"[^\W\d_]{4,}", texts[source].lower())
        return dict(collections.Counter(word for word in words if word not in COMMON).most_common(limit))

    return key_terms


# Doing


def build(cut: List[Section]) -> TaskGraph:
    """One task a section, and one that merges their results."""
    graph = TaskGraph()
    digests = [
        graph.add(
            Task(
                type="digest",
                objective=(
                    "Digest the section in the params, in at most two sentences and in its own words. "
                    "Look up the key terms of its source first, and keep to what matters for them."
                ),
                params=section._asdict(),
            ),
            name="{}: {} ({})".format(section.source, section.title, number),
        )
        for number, section in enumerate(cut, 1)
    ]
    merge = "Merge these digests of one or more documents to an overview of at most three sentences."
    graph.add(Task(type="overview", objective=merge), name="overview", depends_on=digests, allow_failure=True)
    return graph


def remembering(agent: Agent, cache: Cache) -> Any:
    """The agent as a handler that asks only for what it was not asked before."""

    def digest(task: Task, context: TaskContext) -> Any:
        told = "\0".join([agent.client.model, task.objective] + [str(value) for value in task.params.values()])
        key = hashlib.sha256(told.encode("utf-8")).hexdigest()
        known = cache.get(key, default=None)
        if known is not None:
            context.report(1, "known from an earlier brief")
            return known
        result = agent(task, context)
        if isinstance(result, str):  # a Partial is worth showing, and not worth keeping
            cache.set(key, result)
        return result

    return digest


def run(graph: TaskGraph, scheduler: TaskScheduler) -> RunResult:
    """Run the graph, telling on the terminal what is done."""
    done = 0
    for event in scheduler.stream(graph):
        if isinstance(event, TaskFinished):
            done += 1
            status = event.task.status.name.lower()
            note = ": {}".format(event.task.error) if event.task.error else ""
            print("[{}/{}] {} {}{}".format(done, len(graph), event.name, status, note), file=sys.stderr, flush=True)
        elif isinstance(event, RunFinished):
            return event.result
    raise AssertionError("a run's events end with RunFinished")


# Writing


def brief(cut: List[Section], graph: TaskGraph, result: RunResult, stand_in: bool) -> str:
    """The brief in Markdown: overview, digests with their sources, what it cost and how long it took."""
    lines = ["> {}".format(STAND_IN), ""] if stand_in else []
    lines += ["# Brief", "", str(result.results.get("overview") or "(There is no overview.)"), "", "## Digests", ""]
    names = [name for name in graph.tasks if name != "overview"]
    for name, section in zip(names, cut):
        told = result.results.get(name) or "(failed: {})".format(result.errors.get(name, result.skipped.get(name)))
        lines.append("- **{}**: {} [{}]".format(section.title, told, section.source))
    lines += ["", "## Sources", ""]
    for source, count in collections.Counter(section.source for section in cut).items():
        lines.append("- {} ({} section{})".format(source, count, "" if count == 1 else "s"))
    lines += [
        "",
        "## Cost",
        "",
        "| task | requests | input tokens | output tokens | seconds |",
        "| --- | --: | --: | --: | --: |",
    ]
    row = "| {} | {} | {} | {} | {:.2f} |"
    for name, usage in result.usages.items():
        task = name.replace("|", "\\|")
        lines.append(row.format(task, usage.requests, usage.input_tokens, usage.output_tokens, result.durations[name]))
    whole = sum(result.durations.values())
    lines.append(row.format("**total**", result.usage.requests, result.usage.input_tokens, result.usage.output_tokens, whole))
    lines += [
        "",
        "It took {:.2f} s. The tasks took {:.2f} s together, {:.1f} times as long.".format(
            result.duration, whole, whole / result.duration
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Optional[List[str]] = None) -> int:
    """The command: 0 for a whole brief, 1 for one with gaps, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="brief.py", description="Write a Markdown brief of text files.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a text file in UTF-8")
    parser.add_argument("--redis", metavar="URL", help="keep the digests on this Redis server")
    parser.add_argument("--output", metavar="FILE", help="write the brief there instead of to the standard output")
    options = parser.parse_args(arguments)
    try:
        texts = {path: read(path) for path in options.files}
        cut = [section for path, text in texts.items() for section in sections(path, text)]
        with ExitStack() as stack:
            cache: Cache = (
                RedisCache(url=options.redis, default_prefix="brief") if options.redis else MemoryCache(default_prefix="brief")
            )
            stack.enter_context(cache)
            cache.keys()  # a server that is not there is told before anything is asked
            stand_in = not os.environ.get("ANTHROPIC_API_KEY")
            if stand_in:
                print(STAND_IN, file=sys.stderr, flush=True)
                server = stack.enter_context(ModelServer(answer))
                client = AnthropicInferenceClient(model="extractive", api_key="none", api_url=server.url)
            else:
                client = AnthropicInferenceClient(model=os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))
            stack.enter_context(client)
            reader = Agent(client, system="You digest documents. You add nothing of your own.", tools=[term_counter(texts)])
            editor = Agent(client, system="You are the editor of a brief.")
            handlers = {"digest": remembering(reader, cache), "overview": editor}
            scheduler = stack.enter_context(TaskScheduler(handlers, cache=cache))
            graph = build(cut)
            result = run(graph, scheduler)
            text = brief(cut, graph, result, stand_in)
        if options.output:
            with open(options.output, "w", encoding="utf-8") as file:
                file.write(text)
        else:
            sys.stdout.write(text)
        return 1 if result.errors or result.skipped else 0
    except (Unusable, CacheError, ValueError, OSError) as error:
        print("brief.py: {}".format(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("brief.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
