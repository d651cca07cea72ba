"""Bounded JSON: the values of the standard parser without deep nesting; JSON-compatible values."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import example, given, settings, strategies as st

from asimov_sync._json import MAX_DEPTH, exceeds_max_depth, format_error, loads, to_jsonable

from .tiers import by_tier, suite

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\,:a\u00e9\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[]{}"\\a'), inner),
)

CHARACTERS = st.characters() | st.sampled_from('[]{}"\\,:/u\ud83d\ude00\x1f\x7f\ufeff\u2028')
TEXT = st.text(alphabet=CHARACTERS, max_size=8)
NUMBERS = st.integers() | st.integers(-(10**60), 10**60) | st.floats()
ANY_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXT | st.sampled_from("ab"), inner, max_size=4)
    ),
    max_leaves=10,
)
FRAGMENTS = [
    *'[]{}",:.-+eE01 \n\t\0\\',
    *["NaN", "Infinity", "null", '"a":1,', '"a":2', "1e999", "-0", "\\ud83d", "\\ude00", "\\u00e9"],
]
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 400), st.integers(0, 3), st.sampled_from(FRAGMENTS) | st.text(max_size=2)
    ),
    max_size=3,
)
PADDING = ["", " " * (2 * MAX_DEPTH + 2)]
"""Whitespace for both ways of `loads`: that for short text and that for long text."""


def describe(parser, text):
    """Return the value as its repr, which shows types, signs and order; or the word "rejected"."""
    try:
        return repr(parser(text))
    except ValueError:
        return "rejected"


def loads_utf8(data):
    """Parse bytes as the standard library does, without its detection of other encodings."""
    return json.loads(data.decode("utf-8"))


def nested(levels):
    return "[" * levels + "]" * levels


@suite
@given(VALUES, st.sampled_from([None, 1]))
def test_values_equal_those_of_the_standard_parser(value, indent):
    """Brackets and quotes inside strings do not disturb the depth check."""
    text = json.dumps([value, "[" * (MAX_DEPTH + 1)], indent=indent)
    assert loads(text) == json.loads(text)


@settings(max_examples=by_tier(100, 20000))
@given(ANY_VALUES, st.booleans(), st.sampled_from([None, 1]), MUTATIONS, st.sampled_from(PADDING))
def test_results_equal_those_of_the_standard_parser(value, ascii_only, indent, mutations, padding):
    """Valid text gives the same value of the same types; both parsers reject other text."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    for position, removed, inserted in mutations:
        position = min(position, len(text))
        text = text[:position] + inserted + text[position + removed :]
    text += padding
    assert describe(loads, text) == describe(json.loads, text)
    data = text.encode("utf-8", "surrogatepass")
    assert describe(loads, data) == describe(loads_utf8, data)


@settings(max_examples=by_tier(100, 20000))
@given(ANY_VALUES, st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=2))))
@example("\ud800", [])
@example("\xe9", [(2, b"\xff")])
def test_bytes_that_are_not_utf8_are_a_value_error(value, replacements):
    """Bytes give the same value as their decoded text, and are rejected if they are not UTF-8."""
    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    for position, replacement in replacements:
        data = data[:position] + replacement + data[position + len(replacement) :]
    for padded in (data, data + PADDING[1].encode()):
        assert describe(loads, padded) == describe(loads_utf8, padded)


@pytest.mark.parametrize("padding", PADDING, ids=["short", "long"])
@pytest.mark.parametrize(
    "text",
    [
        *[r'"\ud800"', r'"\udc00a"', r'"\ud800\u0041"', r'{"\ud800\ud800":1}', r'"\ud83d\ude00"'],
        *['"\ud800"', '{"\udc00":1}', '"\ufffe\uffff\u2028"', '"\x7f"', "\ufeff1"],
        *["NaN", "[Infinity]", "-Infinity", "-NaN", "+Infinity", "Infinit", "nul", "True"],
        *["1e999", "[-1e400]", "1e-999", "-0", "-0.0", "01", "1.", ".5", "1e", "1_000", "--1"],
        *["9" * 19, "-" + "9" * 19, str(2**64), "1" * 4000, "1" * 5000, "1." + "1" * 5000],
        *["0.1234567890123456789012345678901", "9007199254740993.0", "5e-324"],
        *['{"a":1,"b":2,"a":3}', r'{"a":1,"\u0061":2}', '{"":1}', "{1:2}", '{"a":1,}', "[1,]"],
        *["", " \t\r\n", " \t\r\n1 \t\r\n", "\x0c1", "\xa01", "1\0", '"a\tb"', '"a\0b"', "'a'"],
        *["1,2", "1],[2", "],[", "[1", "1]", "1 2", "[}", ",1", "1,"],
        *[r'"\x41"', r'"\u12"', r'"\u+123"', r'"\u1_23"', r'"\/\b\f\u0000"', '"abc'],
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_special_text_is_read_as_by_the_standard_parser(text, padding):
    """Surrogates, special numbers, duplicate keys and whitespace: same value or both refuse."""
    assert describe(loads, text + padding) == describe(json.loads, text + padding)
    data = (text + padding).encode("utf-8", "surrogatepass")
    assert describe(loads, data) == describe(loads_utf8, data)


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="integers have no limit")
def test_long_integers_are_read_where_the_process_allows_them():
    """An integer with more digits than pydantic_core reads is left to the standard parser."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert loads("1" * 6000) == int("1" * 6000)
    finally:
        sys.set_int_max_str_digits(limit)


@pytest.mark.parametrize("text", [None, 1, [1], [1] * 1000], ids=lambda text: repr(text)[:9])
def test_other_types_are_a_type_error(text):
    """Only str and bytes are parsed, never the text of another object."""
    with pytest.raises(TypeError):
        loads(text)


@pytest.mark.parametrize("text", ["[1", b"[1" + b" " * 500, b"\xff", nested(201)], ids=repr)
def test_errors_have_no_context(text):
    """An error carries no second exception of the other parser."""
    with pytest.raises(ValueError) as raised:
        loads(text)
    assert raised.value.__context__ is None


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
    exceeds = 1 + max(depth(value), levels) > MAX_DEPTH
    assert exceeds_max_depth(text) == exceeds
    expected = "rejected" if exceeds else repr(json.loads(text))
    assert describe(loads, text) == expected
    assert describe(loads, text.encode()) == expected


@pytest.mark.parametrize("innermost", ["[]", "{}", "[1]", '{"a":1}', '["\\ud800"]'])
@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")], ids=["list", "object"])
def test_depth_limit_does_not_depend_on_the_innermost_value(opening, closing, innermost):
    """MAX_DEPTH levels are read and one more is rejected, also where the innermost one is empty."""

    def nest(levels):
        return opening * (levels - 1) + innermost + closing * (levels - 1)

    assert loads(nest(MAX_DEPTH)) == json.loads(nest(MAX_DEPTH))
    for text in (nest(MAX_DEPTH + 1), nest(MAX_DEPTH + 1).encode()):
        with pytest.raises(ValueError, match="^JSON of more than 200 levels$"):
            loads(text)


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
    completed = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert (completed.returncode, completed.stdout) == (0, "JSON of more than 200 levels\n")


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
