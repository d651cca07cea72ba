"""JSON text from elsewhere: what the standard parser makes of it, but for text that nests without a bound."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from asimov_sync.foreign_json import DEEPEST, parsed, too_deep

from .tiers import suite

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\,:a\u00e9\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[]{}"\\a'), inner),
)


def nested(levels):
    return "[" * levels + "]" * levels


@given(VALUES, st.sampled_from([None, 1]))
def test_what_is_parsed(value, indent):
    """What the standard parser reads is read the same, whatever brackets and quotes are in its strings."""
    text = json.dumps([value, "[" * (DEEPEST + 1)], indent=indent)
    assert parsed(text) == json.loads(text)


@suite
@given(VALUES, st.integers(DEEPEST - 8, DEEPEST + 8))
def test_the_bound_is_exact(value, levels):
    """Text is refused from one level above the bound on, whatever stands beside the deep place."""

    def depth(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    text = json.dumps({"beside": value, "deep": json.loads(nested(levels))})
    assert too_deep(text) == (1 + max(depth(value), levels) > DEEPEST)


@given(st.text(alphabet='[{]}"\\,:1 a', max_size=400))
def test_text_that_is_no_json(text):
    """Text that is no JSON is a ValueError, wherever its quotes and brackets stand."""
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            parsed(text)
    else:
        assert parsed(text) == value


@suite
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":', '["[]\\"", {"\\\\": '], ids=repr)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_hostile_text_does_not_end_the_process(opening, closed):
    """Text of a hundred thousand levels is a ValueError even where nothing but the C stack would bound a parser."""
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}.get(opening, "}]") if closed else ""
    program = (
        "import sys\n"
        "from asimov_sync.foreign_json import parsed\n"
        "sys.setrecursionlimit(10 ** 9)\n"
        "try:\n"
        "    parsed({!r} * 100000 + '1' + {!r} * 100000)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    ).format(opening, closing)
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, universal_newlines=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "JSON of more than 200 levels\n")
