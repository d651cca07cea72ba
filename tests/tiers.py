"""The tiers of the tests: `--tier fast`, `suite` (the default) or `soak`.

Each tier contains the tier before it.

fast: run it after each change.
suite: must pass before a change is merged. Adds the tests marked `@suite`.
soak: adds the tests marked `@soak`, and the full numbers of rounds, faults and examples.
"""

import os

import pytest

TIERS = ("fast", "suite", "soak")

VARIABLE = "ASIMOV_TEST_TIER"
"""The environment variable that holds the tier. Processes that tests start inherit it."""

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
    """Return `soak` in the soak tier, and the smaller `fast_or_suite` in the other tiers."""
    return soak if current() == "soak" else fast_or_suite


def within(seconds):
    """Return the upper bound to assert for a duration that is promised to be at most `seconds`.

    The soak tier asserts the promise. The other tiers share a machine with other work. They assert
    only that the call returned early, not by the time-out of about 20 s that the tests set.
    """
    return seconds if current() == "soak" else max(5.0, 2 * seconds)


def positions(length, step=7, last=16):
    """Return the positions below `length` at which to try a fault.

    The soak tier tries all of them. The other tiers try the first two, each `step`-th, and the
    `last` ones, where a fault is most easily mistaken for the regular end.
    """
    if current() == "soak":
        return list(range(length))
    return [at for at in range(length) if at < 2 or at % step == 0 or at >= length - last]


def is_in_tier(item):
    """Return whether a collected test belongs to the tier of this run."""
    if item.get_closest_marker("soak"):
        return current() == "soak"
    return current() != "fast" or not item.get_closest_marker("suite")
