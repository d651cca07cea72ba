"""JSON: parse untrusted text with a limit on its nesting, and make any value JSON-compatible.

The parser of pydantic_core does most of the work: it takes half the time of the standard parser or
less, reads bytes, limits the nesting, and makes no Python calls, so that it does not approach the
interpreter's recursion limit.

The standard parser reads what pydantic_core rejects, such as the escape of a lone surrogate, and
reports the errors. It recurses once for each level of nesting. Text with a thousand levels brings
it close to the recursion limit. If the garbage collector runs a destructor there, Python 3.7 and
3.8 abort the process ("Cannot recover from stack overflow"). Text from a network peer must not be
able to do that, so the depth is checked before the standard parser runs.
"""

import itertools
import json
import math
import re
from typing import Any, Union

from pydantic_core import from_json, to_jsonable_python

__all__ = ["MAX_DEPTH", "MAX_INT_BITS", "exceeds_max_depth", "format_error", "loads", "to_jsonable"]

MAX_DEPTH = 200
"""Highest accepted number of nested lists and objects. The parser of pydantic_core accepts the same
number, and one more if the innermost list or object is empty."""

MAX_INT_BITS = 1024
"""Longest integer, in bits, that is kept as a number. Browsers read a longer one as infinity, and
Python may refuse to write it."""

_SHORT = 2 * MAX_DEPTH + 1
"""Longest text, in characters or bytes, that cannot hold MAX_DEPTH + 1 closed levels."""

_decode = (
    json.JSONDecoder().decode
)  # json.loads selects its decoder on each call, a quarter of its time
_NOT_BRACKETS = re.compile(r"[^\[\]{}]+")
_DEPTH_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def loads(text: Union[str, bytes]) -> Any:
    """Parse JSON.

    text: the JSON document; bytes are UTF-8 without a byte order mark.

    Returns the value. Raises ValueError if the text is not JSON, is not UTF-8 or has more than
    MAX_DEPTH levels.
    """
    try:
        if len(text) <= _SHORT:
            return from_json(text)
        # One list around the document uses up the level that pydantic_core grants to an empty list.
        # That list has one element if the document is valid: "1, 2" makes two, "" makes none.
        (value,) = from_json("[" + text + "]" if isinstance(text, str) else b"[" + text + b"]")
        return value
    except (TypeError, ValueError):  # TypeError: a str with a lone surrogate, in new versions
        pass
    # Outside the except clause, so that the error of pydantic_core is not chained.
    return _loads_by_standard_parser(text if isinstance(text, str) else str(text, "utf-8"))


def _loads_by_standard_parser(text: str) -> Any:
    if exceeds_max_depth(text):
        raise ValueError(f"JSON of more than {MAX_DEPTH} levels")
    return _decode(text)


def exceeds_max_depth(text: str) -> bool:
    """Return True if the nesting of JSON text exceeds MAX_DEPTH levels.

    Brackets inside strings do not count.
    """
    if len(text) <= MAX_DEPTH or text.count("[") + text.count("{") <= MAX_DEPTH:
        return False  # the usual case
    outside_strings = text.replace("\\\\", "").replace('\\"', "").split('"')[::2]
    brackets = _NOT_BRACKETS.sub("", "".join(outside_strings))
    depths = itertools.accumulate(map(_DEPTH_STEPS.__getitem__, brackets))
    return max(depths, default=0) > MAX_DEPTH


def to_jsonable(value: Any) -> Any:
    """Convert a value to one that `json.dumps(..., allow_nan=False)` accepts and browsers read.

    An exception becomes one line of text, bytes become base64, a float that is infinite or NaN
    becomes None (as in pydantic's JSON), and an object that JSON cannot represent becomes its repr.
    A cycle, excessive nesting or a model that fails to serialize makes the whole value its repr.
    """
    try:
        jsonable = to_jsonable_python(value, bytes_mode="base64", fallback=_as_text)
        return _without_unsafe_numbers(jsonable)
    except Exception:  # a cycle, excessive depth, or a model that cannot be serialized
        return _as_text(value)


def _as_text(value: Any) -> str:
    try:
        return format_error(value) if isinstance(value, BaseException) else repr(value)
    except Exception:  # a faulty __repr__, or a depth or number of digits that repr refuses
        return object.__repr__(value)


def _without_unsafe_numbers(value: Any) -> Any:
    """Replace numbers that other JSON parsers reject: infinity, NaN and very long integers."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_INT_BITS else _as_text(value)
    if isinstance(value, list):
        return [_without_unsafe_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_unsafe_numbers(item) for name, item in value.items()}
    return value


def format_error(error: BaseException) -> str:
    """Format an exception as one line: its type, and its message if there is one."""
    try:
        message = str(error)
    except Exception:  # formatting an error must not fail because of a faulty __str__
        message = ""
    name = type(error).__name__
    return f"{name}: {message}" if message else name
