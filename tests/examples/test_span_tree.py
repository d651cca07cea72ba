"""examples/span_tree.py: the tree shows the tasks, requests and tool calls of the given files."""

import re

from ..tiers import suite
from .programs import run

pytestmark = suite

MILLISECONDS = r"  \d+\.\d ms"


def without_times(tree):
    """Return the lines of a tree without the durations and tokens."""
    return [re.sub(r"  \d+ \+ \d+ tokens", "", re.sub(MILLISECONDS, "", line)) for line in tree]


def test_tree_with_a_missing_file(tmp_path):
    """A retried request is one span, tool calls are siblings, and a missing file shows as an
    error.
    """
    bees = tmp_path / "bees.txt"
    bees.write_text("Honeycombs hold honey. Pollinators fly.\n", encoding="utf-8")
    done = run("span_tree.py", bees, tmp_path / "none.txt", OTEL_EXPORTER_OTLP_ENDPOINT="")
    assert done.returncode == 1, done.stderr
    answer, _, *tree = done.stdout.splitlines()
    assert answer == "digest bees.txt: The longest words: pollinators (1), honeycombs (1)."
    lines = without_times(tree)
    assert lines[0] == "invoke_workflow digests"
    assert "    task read none.txt  FileNotFoundError" in lines
    digest = lines.index("    task digest bees.txt")
    assert lines[digest : digest + 6] == [
        "    task digest bees.txt",
        "        invoke_agent reader",
        "            chat stand-in",
        "            execute_tool count",
        "            execute_tool count",
        "            chat stand-in",
    ]
    assert len(lines) == 9
    assert all(re.search(MILLISECONDS, line) for line in tree)


def test_all_files_exist(tmp_path):
    """The exit status is 0, and each file has a digest."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The word " + name, encoding="utf-8")
    done = run(
        "span_tree.py", tmp_path / "a.txt", tmp_path / "b.txt", OTEL_EXPORTER_OTLP_ENDPOINT=""
    )
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("digest ")]) == 2
