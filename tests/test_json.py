"""Bounded JSON: the standard parser without excessive nesting; values that JSON can hold."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from asimov_sync._json import MAX_DEPTH, exceeds_max_depth, format_error, loads, to_jsonable

from .tiers import suite

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\,:a\u00e9\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[]{}"\\a'), inner),
)


def nested(levels):
    return "[" * levels + "]" * levels


@given(VALUES, st.sampled_from([None, 1]))
def test_values_equal_those_of_the_standard_parser(value, indent):
    """Brackets and quotes inside strings do not disturb the depth check."""
    text = json.dumps([value, "[" * (MAX_DEPTH + 1)], indent=indent)
    assert loads(text) == json.loads(text)


@suite
@given(VALUES, st.integers(MAX_DEPTH - 8, MAX_DEPTH + 8))
def test_depth_limit_is_exact(value, levels):
    """Text is rejected from MAX_DEPTH + 1 levels on, whatever is beside the deepest part."""

    def depth(value):
        inner = (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, list)
            else None
        )
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    text = json.dumps({"beside": value, "deep": json.loads(nested(levels))})
    assert exceeds_max_depth(text) == (1 + max(depth(value), levels) > MAX_DEPTH)


@given(st.text(alphabet='[{]}"\\,:1 a', max_size=400))
def test_invalid_json_is_a_value_error(text):
    """Text that is not JSON raises ValueError, wherever its quotes and brackets are."""
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            loads(text)
    else:
        assert loads(text) == value


@suite
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":', '["[]\\"", {"\\\\": '], ids=repr)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_excessive_nesting_does_not_crash_the_process(opening, closed):
    """100,000 levels raise ValueError, even if only the C stack would limit a recursive parser."""
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}.get(opening, "}]") if closed else ""
    program = (
        "import sys\n"
        "from asimov_sync._json import loads\n"
        "sys.setrecursionlimit(10 ** 9)\n"
        "try:\n"
        f"    loads({opening!r} * 100000 + '1' + {closing!r} * 100000)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (0, "JSON of more than 200 levels\n")


# to_jsonable; test_messages.py tests it further through Event.to_dict


def test_infinite_floats_become_none():
    """A float that is infinite or NaN becomes None at any depth; other values do not change."""
    numbers = {"a": [math.inf, 1.5, -math.inf, 0.0], "b": {"c": math.nan, "d": True}}
    assert to_jsonable(numbers) == {"a": [None, 1.5, None, 0.0], "b": {"c": None, "d": True}}
    assert to_jsonable(math.inf) is None


def test_bytes_and_exceptions_become_text():
    """Bytes become base64, an exception its type and message."""
    assert to_jsonable({"raw": b"\x00\x01", "error": ValueError("no")}) == {
        "raw": "AAE=",
        "error": "ValueError: no",
    }


# format_error


class Mute(Exception):
    """An exception whose __str__ fails."""

    def __str__(self):
        raise RuntimeError("no text")


def test_format_error():
    """An exception becomes one line; without a usable message it is the type alone."""
    assert format_error(ValueError("no")) == "ValueError: no"
    assert format_error(KeyError()) == "KeyError"
    assert format_error(Mute()) == "Mute"
