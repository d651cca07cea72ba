"""examples/side_by_side.py: the async facade, as a user runs it."""

from ..tiers import suite
from .programs import run

pytestmark = suite

QUESTION = "How long is the Nile, and where does it end?"


def test_all_answer():
    """Every model answers the question; the answers are in the order of the names."""
    done = run("side_by_side.py", QUESTION, "long", "short", "long")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "long (complete): You asked: " + QUESTION,
        "short (complete): You asked: How long is",
        "long (complete): You asked: " + QUESTION,
    ]
    assert done.stderr.count("long: …") > 2


def test_one_is_cancelled():
    """A slow model is cancelled with its partial answer, and does not delay the others."""
    done = run("side_by_side.py", "--seconds", 2.5, QUESTION, "slow", "short")
    assert done.returncode == 1, done.stderr
    slow, short = done.stdout.splitlines()
    assert short == "short (complete): You asked: How long is"
    assert slow.startswith("slow (cancelled after 2.5 s): ")
    assert ("You asked: " + QUESTION).startswith(slow.split("): ")[1])


def test_unknown_stand_in():
    """An unknown stand-in is an error that lists the known ones."""
    done = run("side_by_side.py", QUESTION, "tall")
    assert done.returncode == 2
    assert "stand-ins: short, long, slow" in done.stderr
