"""A real Jupyter kernel: the stop button returns control, and the notebook remains usable."""

import json

import pytest

from ..optional_packages import skip_unless_installed
from ..tiers import soak, suite, within
from .processes import run_module

pytestmark = suite

COMPLETE = {"status": "COMPLETE", "names": ["quick", "blocked", "after"]}


@pytest.mark.parametrize(
    "place",
    ["stream", pytest.param("sleep", marks=soak), pytest.param("mailbox", marks=soak), "busy"],
)
def test_interrupted_cell(place, tmp_path):
    """Control returns within a second, earlier results are kept, and the cells can be run again.

    The traceback is short.

    Blocking and async cells share one notebook, whose event loop runs all the time.
    """
    skip_unless_installed("ipykernel")
    report = json.loads(run_module("tests.hosts.notebook", place, str(tmp_path)).stdout)
    assert report["loop"] is True
    for name, cell in report["interrupted"].items():
        assert cell["error"] == "KeyboardInterrupt", name
        assert cell["lines"] < 30, name
        assert cell["last"] == [{"quick": "done"}, ["blocked"], ["after"]], name
        assert cell["seconds_in_cell"] < within(1), name
        # Beside a busy thread, Jupyter itself may take seconds to format a traceback.
        assert cell["seconds"] < within(1) or place == "busy", name
    assert report["run again"] == dict.fromkeys(
        ["run", "stream", "await", "facade", "facade's stream"], COMPLETE
    )
    assert report["both"] == {
        "texts": ["one two"] * 4,
        "read": ["blocking", "blocking", "a message"],
    }
    assert report["shutdown"] < 3
