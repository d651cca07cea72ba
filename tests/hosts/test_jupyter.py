"""A real Jupyter kernel: the stop button brings control back, and the notebook goes on."""

import json

import pytest

from ..needed import needed_by_program
from ..tiers import suite, within
from .processes import finished

pytestmark = suite

WHOLE = {"status": "COMPLETE", "names": ["quick", "blocked", "after"]}


@pytest.mark.parametrize("place", ["stream", "sleep", "mailbox", "busy"])
def test_an_interrupted_cell(place, tmp_path):
    """Control is back within a second, what was finished is there, the cells can be run again, and the kernel ends soon.

    What blocks and what is awaited go together in one notebook, whose event loop runs all the while.
    """
    needed_by_program("ipykernel")
    told = json.loads(finished("tests.hosts.notebook", place, str(tmp_path)).stdout)
    assert told["loop"] is True
    for name, cell in told["interrupted"].items():
        assert cell["error"] == "KeyboardInterrupt", name
        assert cell["last"] == [{"quick": "done"}, ["blocked"], ["after"]], name
        assert cell["control"] < within(1), name
        # Beside a busy thread, Jupyter itself may take seconds for a traceback: it reads files, and after each waits its turn.
        assert cell["told"] < within(1) or place == "busy", name
    assert told["run again"] == dict.fromkeys(["run", "stream", "await", "facade", "facade's stream"], WHOLE)
    assert told["both"] == {"said": ["one two"] * 4, "read": ["blocking", "blocking", "a message"]}
    assert told["shutdown"] < 3
