"""examples/span_tree.py, as a user runs it: the tree is that of the files that were given."""

import re

from ..tiers import suite
from .test_graph_examples import run

pytestmark = suite

MILLISECONDS = r"  \d+\.\d ms"


def without_times(tree):
    """The lines of a tree, without what differs from run to run; siblings of one name in any order."""
    return [re.sub(r"  \d+ \+ \d+ tokens", "", re.sub(MILLISECONDS, "", line)) for line in tree]


def test_the_tree_of_two_files_and_one_that_is_not_there(tmp_path):
    """A request that was sent again is one span, tools are beside each other, and the missing file's task is an error."""
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


def test_all_files_are_there(tmp_path):
    """Then it is a success, with a digest for each."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The word " + name, encoding="utf-8")
    done = run("span_tree.py", tmp_path / "a.txt", tmp_path / "b.txt", OTEL_EXPORTER_OTLP_ENDPOINT="")
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("digest ")]) == 2
