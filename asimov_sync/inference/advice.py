"""What to leave out: a provider that rejects an option names it in its own words; the error then names it in ours."""

import re
from typing import Iterable, List

from asimov_sync.errors import InvalidRequestError
from asimov_sync.inference.request import Request

__all__ = ["advise"]

_WIRE_NAMES = {
    "max_tokens": ("maxTokens", "max_completion_tokens"),
    "stop_sequences": ("stop", "stopSequences"),
    "output_config": ("output_format", "outputConfig"),
}
"""What options are called on the wires, beside their own names and these in camel case."""


def advise(error: InvalidRequestError, request: Request) -> None:
    """Add to the error's message which of the options that were given its provider speaks of, if it speaks of any."""
    told = str(error.args[0]) if error.args else ""
    given: List[str] = [name for name in request.options if name != "extra"]
    extra = request.options.get("extra")
    named = ["{}=".format(name) for name in given if _spoken_of(told, _names(name))]
    named += ["extra={{{!r}: …}}".format(name) for name in (extra or {}) if _spoken_of(told, [name])]
    if named:
        error.args = (
            "{} [leave out {}; what the client was made with is taken back by None]".format(told, " and ".join(named)),
        )


def _names(option: str) -> Iterable[str]:
    head, *rest = option.split("_")
    return [option, head + "".join(word.capitalize() for word in rest), *_WIRE_NAMES.get(option, ())]


def _spoken_of(told: str, names: Iterable[str]) -> bool:
    # "thinking blocks", or a path in the messages, speaks of the conversation, and not of the option.
    return any(re.search(r"(?<![\w.]){}(?!\w|\s+blocks?\b)".format(re.escape(name)), told) for name in names)
