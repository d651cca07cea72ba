"""The tiers of the tests: `--tier fast`, `suite` (the default) or `soak`. Each tier contains the one before it.

fast: what a developer runs after each change.
suite: everything that has to pass before a change lands. Tests marked `@suite` start here.
soak: the suite with its full numbers of rounds, faults and examples, and the tests marked `@soak`.
"""

import os

import pytest

TIERS = ("fast", "suite", "soak")

VARIABLE = "ASIMOV_TEST_TIER"
"""Where the tier is kept, so that the processes that tests start have the same one."""

suite = pytest.mark.suite
"""Marks a test that the fast tier leaves out."""

soak = pytest.mark.soak
"""Marks a test that only the soak tier runs."""


def current():
    """Return the tier of this run."""
    return os.environ.get(VARIABLE, "suite")


def choose(tier):
    """Make `tier` the tier of this run."""
    os.environ[VARIABLE] = tier


def by_tier(fast_or_suite, soak):
    """Return the number that fits the tier: a small one for the fast tier and the suite, the full one for the soak tier."""
    return soak if current() == "soak" else fast_or_suite


def within(seconds):
    """Return the bound for an elapsed time that is promised to be at most `seconds`.

    The soak tier asserts the promise. The other tiers, which share a machine with other work, assert only that the call was
    freed, and did not run until the time-out of some 20 s that would have ended it otherwise.
    """
    return seconds if current() == "soak" else max(5.0, 2 * seconds)


def positions(length, step=7, last=16):
    """Return the positions below `length` to try a fault at: all of them in the soak tier; otherwise the first two, every
    `step`-th, and the `last` ones, where a fault is most easily taken for the regular end.
    """
    if current() == "soak":
        return list(range(length))
    return [at for at in range(length) if at < 2 or at % step == 0 or at >= length - last]


def is_in_tier(item):
    """Whether a collected test belongs to the tier of this run."""
    if item.get_closest_marker("soak"):
        return current() == "soak"
    return current() != "fast" or not item.get_closest_marker("suite")
