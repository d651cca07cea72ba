"""examples/writer_critic.py: the loop ends when the text fits, or when the visits are used up."""

import re

import pytest

from ..tiers import suite
from .programs import BEES, run

pytestmark = suite


def test_critic_accepts_a_text_that_fits(bees):
    """A text that fits is accepted at once; otherwise each visit removes sentences."""
    whole = run("writer_critic.py", "--words", 100, bees)
    assert (whole.returncode, whole.stdout.strip()) == (0, " ".join(BEES.split()))
    assert re.findall("^check: (.*)$", whole.stderr, re.M) == ["It fits."]
    count = len(BEES.split())
    shorter = run("writer_critic.py", "--words", count - 1, bees)
    assert shorter.returncode == 0
    assert re.findall("^check: (.*)$", shorter.stderr, re.M) == [
        f"It has {count} words, 1 too many.",
        "It fits.",
    ]
    assert len(shorter.stdout.split()) < count
    assert all(
        sentence in whole.stdout for sentence in re.split(r"(?<=\.)\s+", shorter.stdout.strip())
    )


@pytest.mark.parametrize("words", [3, 8, 13, 20])
def test_word_limit(bees, words):
    """An accepted text keeps the limit, and a rejected one exceeds it."""
    done = run("writer_critic.py", "--words", words, bees)
    assert (len(done.stdout.split()) <= words) == (done.returncode == 0)
    assert done.stdout.strip()


def test_readme_fits():
    """The command of the example's own docstring ends with a text that fits."""
    done = run("writer_critic.py", "--words", 40, "README.rst")
    assert done.returncode == 0 and 0 < len(re.findall(r"\w[\w'-]*", done.stdout)) <= 40


@pytest.mark.parametrize("visits", [1, 3])
def test_out_of_visits(bees, visits):
    """If the limit cannot be kept, the last draft is printed, and the exit status is 1."""
    done = run("writer_critic.py", "--words", 1, "--visits", visits, bees)
    assert done.returncode == 1
    verdicts = re.findall("^check: (.*)$", done.stderr, re.M)
    assert len(verdicts) == visits and all(
        verdict.startswith("It has") for verdict in verdicts[:-1]
    )
    assert (
        f"check failed: GraphError: 'write' was started {visits} times, its max_visits"
        in done.stderr
    )
    sentences = re.split(r"(?<=\.)\s+", done.stdout.strip())
    assert len(sentences) == 4 - (visits - 1)


def test_missing_text(tmp_path):
    """A missing file gives exit status 2 and one line, no traceback."""
    done = run("writer_critic.py", tmp_path / "none.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and "none.txt" in done.stderr
