"""examples/quickstart.py: the graph and the agents that a newcomer runs first."""

from .programs import ROOT, run


def test_quickstart():
    """Both agents answer, without a key."""
    done = run("quickstart.py", ANTHROPIC_API_KEY="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "text: Bees make honey.\nfrench: Les abeilles font du miel.\n"


def test_quickstart_is_short():
    """The program fits on a screen: at most 25 lines of code, imports included."""
    lines = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 25
