"""JSON text that came from elsewhere: parsed where its nesting is bounded, refused where it is not.

Python's parser calls itself for every level. Text of a thousand levels takes it to the interpreter's recursion limit, and a
garbage collection there runs whatever destructors are due; on Python 3.7 and 3.8 one that goes fifty calls deep ends the
process ("Cannot recover from stack overflow"). Nobody who sends us text may do that.
"""

import itertools
import json
import re
from typing import Any

__all__ = ["DEEPEST", "parsed", "too_deep"]

DEEPEST = 200
"""So many levels of lists and objects may be within each other. Pydantic's own parser reads one more."""

_decode = json.JSONDecoder().decode  # json.loads chooses its decoder anew each time, which takes a quarter of its time
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def parsed(text: str) -> Any:
    """The value of JSON text. ValueError for what is no JSON, and for text of more than `DEEPEST` levels."""
    if too_deep(text):
        raise ValueError("JSON of more than {} levels".format(DEEPEST))
    return _decode(text)


def too_deep(text: str) -> bool:
    """Whether a parser of this text would come to more than `DEEPEST` levels."""
    if len(text) <= DEEPEST or text.count("[") + text.count("{") <= DEEPEST:
        return False  # as most text is
    outside = text.replace("\\\\", "").replace('\\"', "").split('"')[::2]  # of strings
    brackets = _NO_BRACKETS.sub("", "".join(outside))
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEEPEST
