"""The example of the async facade, as a user runs it."""

from ..tiers import suite
from .test_graph_examples import run

pytestmark = suite

QUESTION = "How long is the Nile, and where does it end?"


def test_all_answer():
    """Every model's answer follows from the question, and is told in the order of the names."""
    done = run("side_by_side.py", QUESTION, "long", "short", "long")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "long (whole): You asked: " + QUESTION,
        "short (whole): You asked: How long is",
        "long (whole): You asked: " + QUESTION,
    ]
    assert done.stderr.count("long: …") > 2


def test_one_is_cancelled():
    """A model that is too slow is cancelled, with what it had said; the others are not held up."""
    done = run("side_by_side.py", "--seconds", 2.5, QUESTION, "slow", "short")
    assert done.returncode == 1, done.stderr
    slow, short = done.stdout.splitlines()
    assert short == "short (whole): You asked: How long is"
    assert slow.startswith("slow (cancelled after 2.5 s): ")
    assert ("You asked: " + QUESTION).startswith(slow.split("): ")[1])


def test_nobody_is_called_that():
    """A stand-in that there is not is told, with those that there are."""
    done = run("side_by_side.py", QUESTION, "tall")
    assert done.returncode == 2
    assert "there are short, long, slow" in done.stderr
