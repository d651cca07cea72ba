"""examples/approval.py: one process works, another one decides."""

import re

import pytest

from ..tiers import suite
from ..waiting import DEADLINE
from .programs import run

pytestmark = suite


@pytest.mark.parametrize(
    "answers, paid, message, status",
    [
        (
            ["yes", "yes"],
            ["PAID 7 to Ada", "PAID 900 to Bob"],
            "Done: paid 7 to Ada; paid 900 to Bob.",
            0,
        ),
        (["yes", "too much"], ["PAID 7 to Ada"], "Done: paid 7 to Ada; ToolRefused: too much.", 1),
        (["ask her", "not him"], [], "Done: ToolRefused: ask her; ToolRefused: not him.", 1),
    ],
)
def test_a_second_process_approves(
    start_example, redis_url, unique, answers, paid, message, status
):
    """The questions show the agent's calls, and only the approved calls are made."""
    worker = start_example(
        "approval.py", "--prefix", unique, redis_url, "work", "Pay 7 to Ada and 900 to Bob."
    )
    decided = run(
        "approval.py",
        "--prefix",
        unique,
        redis_url,
        "decide",
        "--count",
        2,
        stdin="\n".join(answers) + "\n",
    )
    out, err = worker.communicate(timeout=DEADLINE)
    assert decided.returncode == 0, decided.stderr
    assert re.findall(r"pay\(.*?\)", decided.stdout) == [
        "pay(amount=7, to='Ada')",
        "pay(amount=900, to='Bob')",
    ]
    *first, last = out.splitlines()
    assert (sorted(first), last, worker.returncode) == (sorted(paid), message, status), err


def test_undecided_question(start_example, redis_url, unique):
    """A process that ends without an answer releases the question, and another one answers it."""
    worker = start_example("approval.py", "--prefix", unique, redis_url, "work", "Pay 12 to Eve.")
    undecided = run("approval.py", "--prefix", unique, redis_url, "decide", stdin="")
    assert undecided.returncode == 1 and "pay(amount=12, to='Eve')" in undecided.stdout
    assert worker.poll() is None
    run("approval.py", "--prefix", unique, redis_url, "decide", "--count", 1, stdin="yes\n")
    out, _ = worker.communicate(timeout=DEADLINE)
    assert (out, worker.returncode) == ("PAID 12 to Eve\nDone: paid 12 to Eve.\n", 0)


def test_no_answer(start_example, redis_url, unique):
    """After the timeout nothing is paid, and the outdated question is not asked again."""
    late = run(
        "approval.py", "--prefix", unique, redis_url, "work", "--timeout", 0.3, "Pay 12 to Eve."
    )
    assert (late.returncode, late.stdout) == (1, "Not finished.\n")
    assert "TaskTimeout" in late.stderr
    worker = start_example("approval.py", "--prefix", unique, redis_url, "work", "Pay 1 to Ada.")
    decided = run(
        "approval.py", "--prefix", unique, redis_url, "decide", "--count", 1, stdin="yes\n"
    )
    assert "Eve" not in decided.stdout and "pay(amount=1, to='Ada')" in decided.stdout
    assert worker.communicate(timeout=DEADLINE)[0].startswith("PAID 1 to Ada")


def test_nothing_to_approve(redis_url, unique):
    """A request without a payment asks no question."""
    done = run("approval.py", "--prefix", unique, redis_url, "work", "Good evening.")
    assert (done.returncode, done.stdout) == (0, "There is nothing to pay.\n")


def test_no_redis():
    """A missing server gives exit status 2 and one line, no traceback."""
    done = run("approval.py", "redis://127.0.0.1:9/0", "decide")
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1].startswith("approval.py: ") and "Traceback" not in done.stderr
    )
