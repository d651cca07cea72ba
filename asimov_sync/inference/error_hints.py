"""What to leave out: a provider that rejects an option names it in its own words; the error then names it in ours."""

import re
from typing import List

from asimov_sync.errors import InvalidRequestError
from asimov_sync.inference.request import Request

__all__ = ["advise"]

_WIRE_NAMES = {
    "max_tokens": ("maxTokens", "max_completion_tokens", "max_output_tokens"),
    "stop_sequences": ("stop", "stopSequences"),
    "output_config": ("output_format", "outputConfig"),
}
"""What options are called on the wires, beside their own names and these in camel case."""

_UNKNOWN = re.compile(r"unsupported|unrecogni[sz]ed|unknown|not supported|not permitted|extraneous", re.IGNORECASE)
"""Words of a provider that does not take an option at all, whatever its value."""

_CONVERSATION = re.compile(r"(?:^|: )messages\b")
"""How a refusal begins that concerns what was said; it may name an option, and mean a block of that name."""


def advise(error: InvalidRequestError, request: Request) -> None:
    """Add to the error's message which of the options that were given its provider speaks of, if it speaks of any."""
    told = str(error.args[0]) if error.args else ""
    if _CONVERSATION.search(told):
        return
    given = [name for name in request.options if name != "extra" and any(_spoken_of(told, word) for word in _names(name))]
    advice: List[str] = []
    if "max_tokens" in given and not _UNKNOWN.search(told):  # wires that require it would miss it
        given.remove("max_tokens")
        advice.append("change max_tokens=")
    named = ["{}=".format(name) for name in given]
    named += ["extra={{{!r}: …}}".format(name) for name in request.options.get("extra") or {} if _spoken_of(told, name)]
    if named:
        advice.append("leave out {}; what the client was made with is taken back by None".format(" or ".join(named)))
    if advice:
        error.args = ("{} [{}]".format(told, ", or ".join(advice)),)


def _names(option: str) -> List[str]:
    head, *rest = option.split("_")
    return [option, head + "".join(word.capitalize() for word in rest), *_WIRE_NAMES.get(option, ())]


def _spoken_of(told: str, name: str) -> bool:
    """Whether a refusal names an option. A name that is an English word counts in quotes, or as what a sentence is about."""
    word = re.escape(name)
    if not name.isalpha() or name != name.lower():
        return re.search(r"(?<![\w.]){}(?!\w)".format(word), told) is not None
    quoted = r"[`'\"\[]{}[`'\".\]]".format(word)
    subject = r"(?:^|[:.] |\n){}(?=[:.\[]|,| (?:and|is|was|has|may|must|can|cannot|does|should)\b|$)".format(word)
    return re.search("{}|{}".format(quoted, subject), told, re.IGNORECASE) is not None
