"""examples/research.py: another question or other files, another answer."""

import re

from ..tiers import suite
from .programs import ROOT, run

pytestmark = suite


def test_answer_from_matching_files(bees, trains):
    """Each matching file has one digest, of its own sentences; the answer is the best digest."""
    done = run("research.py", "Where does a hive keep honey?", bees, trains)
    assert done.returncode == 0, done.stderr
    answer, first, second, figures = done.stdout.splitlines()
    assert answer == "A hive keeps its honey in combs of wax."
    assert first == f"- {bees}: A hive keeps its honey in combs of wax."
    assert second == f"- {trains}: A late train brings honey to nobody."
    assert re.match(r"\(3 requests, \d+ tokens\)$", figures)
    assert f"{bees}: 1 of 2 passages" in done.stderr


def test_another_question(bees, trains):
    """Another question matches another file, and the graph has one digest less."""
    done = run("research.py", "At which station do trains leave?", bees, trains)
    assert done.stdout.splitlines()[0] == "Trains leave from the station at noon."
    assert str(bees) not in done.stdout and "(2 requests" in done.stdout
    assert done.stderr.count("digest ") == 1


def test_no_matching_file(bees):
    """Without a match there is no answer, no request, and exit status 1."""
    done = run("research.py", "Zebra?", bees)
    assert (done.returncode, done.stdout) == (1, "")
    assert "collect failed: LookupError: no file says anything of this question" in done.stderr


def test_unreadable_file(bees, tmp_path):
    """A missing file fails its own search. The others are used, and the exit status is 1."""
    done = run("research.py", "Where is honey kept?", tmp_path / "none.txt", bees)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "A hive keeps its honey in combs of wax."
    assert "search[0] failed: FileNotFoundError" in done.stderr


def test_documentation_by_default():
    """Without files, all pages of docs/ are searched, and the answer quotes one of them."""
    done = run("research.py", "What happens to a message when its reader is killed?")
    assert done.returncode == 0, done.stderr
    pages = list((ROOT / "docs").glob("*.rst"))
    for page in pages:
        assert f"{page}: " in done.stderr
    answer = done.stdout.splitlines()[0]
    assert any(answer in " ".join(page.read_text(encoding="utf-8").split()) for page in pages)
