"""docs/telemetry.rst shows what there is: its picture is that of a real run, and all names are in it."""

import re

import pytest

from asimov_sync.telemetry import CAPTURE_CONTENT, CAPTURE_VALUES, STABILITY_OPT_IN, names
from asimov_sync.telemetry.names import LATEST, V1_41, Metric

from ..test_readme import ROOT, blocks
from ..tiers import suite

GUIDE = ROOT / "docs" / "telemetry.rst"


@suite
def test_the_picture_is_real():
    """The tree in the guide is the one that its own example made."""
    namespace = {}
    for block in blocks("python", GUIDE):
        exec(compile(block, GUIDE.name, "exec"), namespace)
    namespace["client"].close()
    namespace["server"].close()
    (picture,) = blocks("text", GUIDE)
    assert namespace["picture"] == picture
    assert namespace["result"].skipped.keys() == {"summary"}


def metrics(generation):
    for part in generation:
        for one in part if isinstance(part, tuple) and not isinstance(part, Metric) else [part]:
            if isinstance(one, Metric):
                yield one.name


@pytest.mark.parametrize("generation", [V1_41, LATEST], ids=["1.41", "since"])
def test_all_metrics_are_in_the_guide(generation):
    """By their whole names."""
    told = set(re.findall(r"``([^`]+)``", GUIDE.read_text(encoding="utf-8")))
    assert set(metrics(generation)) <= told
    assert len(set(metrics(generation))) == (3 if generation is V1_41 else 14)


def test_all_attributes_are_in_the_guide():
    """By their whole names; and so are the variables, and the words that one of them takes."""
    told = set(re.findall(r"``([^`]+)``", GUIDE.read_text(encoding="utf-8")))
    assert names.ATTRIBUTES <= told
    assert {CAPTURE_CONTENT, STABILITY_OPT_IN} <= told
    assert set(CAPTURE_VALUES) <= {word.lower() for word in told}
