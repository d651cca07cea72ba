"""docs/telemetry.rst matches the code: its example prints the tree, and all names are listed."""

import logging
import re

import pytest

from asimov_sync.telemetry import CAPTURE_CONTENT, CAPTURE_VALUES, STABILITY_OPT_IN, names
from asimov_sync.telemetry.names import LATEST, V1_41, Metric

from ..test_readme import ROOT, blocks
from ..tiers import suite

GUIDE = ROOT / "docs" / "telemetry.rst"


@suite
def test_tree_of_spans():
    """The guide's example prints the tree that the guide shows."""
    namespace = {}
    try:
        for block in blocks("python", GUIDE):
            exec(compile(block, GUIDE.name, "exec"), namespace)
    finally:
        logger = logging.getLogger("asimov_sync")
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()
    namespace["client"].close()
    namespace["server"].close()
    (picture,) = blocks("text", GUIDE)
    assert namespace["picture"] == picture
    assert namespace["result"].skipped.keys() == {"summary"}


def metric_names(generation):
    for part in generation:
        for one in part if isinstance(part, tuple) and not isinstance(part, Metric) else [part]:
            if isinstance(one, Metric):
                yield one.name


@pytest.mark.parametrize("generation", [V1_41, LATEST], ids=["1.41", "since"])
def test_metrics_are_documented(generation):
    """The guide lists every metric by its full name."""
    documented = set(re.findall(r"``([^`]+)``", GUIDE.read_text(encoding="utf-8")))
    assert set(metric_names(generation)) <= documented
    assert len(set(metric_names(generation))) == (4 if generation is V1_41 else 15)


def test_attributes_are_documented():
    """The guide lists every attribute, environment variable and value by its full name."""
    documented = set(re.findall(r"``([^`]+)``", GUIDE.read_text(encoding="utf-8")))
    assert names.ATTRIBUTES <= documented
    assert {CAPTURE_CONTENT, STABILITY_OPT_IN} <= documented
    assert set(CAPTURE_VALUES) <= {word.lower() for word in documented}
