"""TaskContext: what a handler sees beside its task."""

import pytest

from asimov_sync import TaskScheduler

from .graphs import single

DOCUMENTED = [
    "attempt",
    "cache",
    "cancellation",
    "check_route",
    "failed",
    "feedback",
    "idempotency_key",
    "input",
    "inputs",
    "name",
    "partial",
    "report",
    "run_id",
    "skipped",
    "spawn",
    "step",
    "visit",
    "wait_for",
]


def is_dunder(name):
    return name.startswith("__") and name.endswith("__")


@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
def test_shows_the_documented_names_only(workers):
    """dir() of a context lists the names that the documentation has, and each of them exists."""
    seen = []

    def look(task, context):
        seen.extend(name for name in dir(context) if not is_dunder(name))
        return [hasattr(context, name) for name in DOCUMENTED]

    with TaskScheduler({"look": look}, max_workers=workers) as scheduler:
        assert scheduler.run(single("look")).results == {"x": [True] * len(DOCUMENTED)}
    assert sorted(seen) == DOCUMENTED


def test_cannot_get_other_attributes():
    """A handler cannot store anything in its context: a typo is an AttributeError."""

    def handler(task, context):
        context.input = "typo"

    with TaskScheduler({"t": handler}, max_workers=0) as scheduler:
        assert scheduler.run(single("t")).errors["x"].startswith("AttributeError")
