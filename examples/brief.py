"""Write a brief of text files: agents digest all sections in parallel, and one merges them.

    python examples/brief.py README.rst CHANGES.rst
    python examples/brief.py --redis redis://localhost:6379/0 --output brief.md notes.txt

With ANTHROPIC_API_KEY set it asks the real API (ANTHROPIC_MODEL names the model). Otherwise it
starts a local server with a small summariser that picks sentences. Digests are kept in a cache:
with --redis, an unchanged section costs nothing the next time.
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
from model import has_key, open_client

from asimov_sync import (
    Agent,
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
    Usage,
    tool,
)

STAND_IN = "a small summariser on this machine picks sentences, in place of a language model."
UNDERLINE = re.compile(r"([=\-~^\"*+#])\1{2,}\s*$")
COMMON_WORDS = frozenset(
    """
    about after also because been before being both could does each every from have into
    itself more most much only other over same should some such than that their them then
    there these they this those through under until used uses using very were what when where
    which while will with without would your
    """.split()
)


class Section(NamedTuple):
    """A section of a source, digested by one task."""

    source: str
    title: str
    text: str


class UnusableInput(Exception):
    """An input without usable text; the message has the file and the reason."""


# Reading


def read(path: str) -> str:
    """Return the text of a file. Raises UnusableInput."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UnusableInput(f"{path}: {error.strerror or error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnusableInput(f"{path}: not a text file in UTF-8") from None
    if "\0" in text:
        raise UnusableInput(f"{path}: a binary file, not text")
    if not text.strip():
        raise UnusableInput(f"{path}: the file is empty")
    return text


def split_sections(source: str, text: str) -> List[Section]:
    """Split a text at its Markdown or reStructuredText headings. Without headings it is one
    section.
    """
    lines = text.splitlines()
    found: List[Tuple[str, List[str]]] = [(os.path.basename(source), [])]
    skip = 0
    for number, line in enumerate(lines):
        below = lines[number + 1] if number + 1 < len(lines) else ""
        if skip:
            skip -= 1
        elif re.match(r"#{1,6} +\S", line):
            found.append((line.strip("# "), []))
        elif line.strip() and UNDERLINE.match(below) and len(below.strip()) >= len(line.strip()):
            found.append((line.strip(), []))
            skip = 1
        else:
            found[-1][1].append(line)
    cut = [Section(source, title, "\n".join(body).strip()) for title, body in found]
    cut = [section for section in cut if re.search(r"\w", section.text)]
    return cut or [Section(source, found[0][0], text.strip())]


def make_term_counter(texts: Dict[str, str]) -> Any:
    """Return the agent's tool: it counts the frequent words of a whole source."""

    @tool
    def key_terms(source: str, limit: int = 15) -> Dict[str, int]:
        """Count the most frequent words of the whole document that your section belongs to.

        source: the document's name, as in the params. limit: the number of words.
        """
        if source not in texts:
            raise LookupError(f"there is no source {source!r}; sources: {', '.join(texts)}")
        words = re.findall(r"[^\W\d_]{4,}", texts[source].lower())
        counts = collections.Counter(word for word in words if word not in COMMON_WORDS)
        return dict(counts.most_common(limit))

    return key_terms


# Running


def build(cut: List[Section]) -> TaskGraph:
    """Build the graph: a task for each section, and one that merges the digests."""
    graph = TaskGraph()
    digests = [
        graph.add(
            Task(
                type="digest",
                objective=(
                    "Digest the section in the params, in at most two sentences, in its own words. "
                    "Look up the key terms of its source first, and keep to what matters for them."
                ),
                params=section._asdict(),
            ),
            name=f"{section.source}: {section.title} ({number})",
        )
        for number, section in enumerate(cut, 1)
    ]
    merge = (
        "Merge these digests of one or more documents to an overview of at most three sentences."
    )
    graph.add(
        Task(type="overview", objective=merge),
        name="overview",
        depends_on=digests,
        allow_failure=True,
    )
    return graph


def remember_results(agent: Agent, cache: Cache) -> Any:
    """Return a handler that asks the agent only if the cache has no result for the task."""

    def digest(task: Task, context: TaskContext) -> Any:
        text = "\0".join(
            [agent.client.model, task.objective] + [str(value) for value in task.params.values()]
        )
        key = hashlib.sha256(text.encode("utf-8")).hexdigest()
        known = cache.get(key, default=None)
        if known is not None:
            context.report(1, "known from an earlier brief")
            return known
        result = agent(task, context)
        if isinstance(result, str):  # a Partial is shown, but not kept
            cache.set(key, result)
        return result

    return digest


def run(graph: TaskGraph, scheduler: TaskScheduler) -> RunResult:
    """Run the graph and print its progress."""
    done = 0
    for event in scheduler.stream(graph):
        if isinstance(event, TaskFinished):
            done += 1
            status = event.task.status.name.lower()
            note = f": {event.task.error}" if event.task.error else ""
            print(f"[{done}/{len(graph)}] {event.name} {status}{note}", file=sys.stderr, flush=True)
        elif isinstance(event, RunFinished):
            return event.result
    raise AssertionError("the last event of a run is RunFinished")


# Writing


def format_brief(cut: List[Section], graph: TaskGraph, result: RunResult) -> str:
    """Format the brief as Markdown: overview, digests, sources, cost and time."""
    lines = [] if has_key() else [f"> No ANTHROPIC_API_KEY is set: {STAND_IN}", ""]
    lines += [
        "# Brief",
        "",
        str(result.results.get("overview") or "(There is no overview.)"),
        "",
        "## Digests",
        "",
    ]
    names = [name for name in graph.tasks if name != "overview"]
    for name, section in zip(names, cut):
        digest = (
            result.results.get(name)
            or f"(failed: {result.errors.get(name, result.skipped.get(name))})"
        )
        lines.append(f"- **{section.title}**: {digest} [{section.source}]")
    lines += ["", "## Sources", ""]
    for source, count in collections.Counter(section.source for section in cut).items():
        lines.append(f"- {source} ({count} section{'' if count == 1 else 's'})")
    lines += [
        "",
        "## Cost",
        "",
        "| task | requests | input tokens | output tokens | seconds |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, usage in result.usages.items():
        lines.append(format_row(name.replace("|", "\\|"), usage, result.durations[name]))
    total = sum(result.durations.values())
    lines.append(format_row("**total**", result.usage, total))
    lines += [
        "",
        f"It took {result.duration:.2f} s. The tasks took {total:.2f} s together, "
        f"{total / result.duration:.1f} times as long.",
    ]
    return "\n".join(lines) + "\n"


def format_row(task: str, usage: Usage, seconds: float) -> str:
    """Format a row of the table of costs."""
    figures = f"{usage.requests} | {usage.input_tokens} | {usage.output_tokens} | {seconds:.2f}"
    return f"| {task} | {figures} |"


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command.

    Return 0 for a complete brief, 1 for one with gaps, 2 for unusable input.
    """
    parser = argparse.ArgumentParser(
        prog="brief.py", description="Write a Markdown brief of text files."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a text file in UTF-8")
    parser.add_argument("--redis", metavar="URL", help="keep the digests on this Redis server")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write the brief to this file instead of standard output",
    )
    options = parser.parse_args(arguments)
    try:
        texts = {path: read(path) for path in options.files}
        cut = [section for path, text in texts.items() for section in split_sections(path, text)]
        with ExitStack() as stack:
            cache: Cache = MemoryCache(default_prefix="brief")
            if options.redis:
                cache = RedisCache(url=options.redis, default_prefix="brief")
            stack.enter_context(cache)
            cache.keys()  # fails early if the server is not there
            client = stack.enter_context(open_client(answer, STAND_IN))
            reader = Agent(
                client,
                system="You digest documents. You add nothing of your own.",
                tools=[make_term_counter(texts)],
            )
            editor = Agent(client, system="You are the editor of a brief.")
            handlers = {"digest": remember_results(reader, cache), "overview": editor}
            scheduler = stack.enter_context(TaskScheduler(handlers, cache=cache))
            graph = build(cut)
            result = run(graph, scheduler)
            text = format_brief(cut, graph, result)
        if options.output:
            with open(options.output, "w", encoding="utf-8") as file:
                file.write(text)
        else:
            sys.stdout.write(text)
        return 1 if result.errors or result.skipped else 0
    except (UnusableInput, CacheError, ValueError, OSError) as error:
        print(f"brief.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("brief.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
