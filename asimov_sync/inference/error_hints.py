"""Adds the name of a rejected option to the provider's error message.

A provider names an option as its own API does; the hint names the keyword argument of this library.
"""

import re
from typing import List

from asimov_sync.errors import InvalidRequestError
from asimov_sync.inference.request import Request

__all__ = ["add_option_hint"]

_PROVIDER_NAMES = {
    "max_tokens": ("maxTokens", "max_completion_tokens", "max_output_tokens"),
    "stop_sequences": ("stop", "stopSequences"),
    "output_config": ("output_format", "outputConfig"),
}
"""Providers' names of options, other than this library's names and their camel-case forms."""

_UNKNOWN = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|not supported|not permitted|extraneous", re.IGNORECASE
)
"""Words of an error about the option itself, rather than about its value."""

_CONVERSATION = re.compile(r"(?:^|: )messages\b")
"""The beginning of an error about messages. An option's name in it may be a type of block."""


def add_option_hint(error: InvalidRequestError, request: Request) -> None:
    """Append to the error's message the request's options that the provider mentions, if any."""
    message = str(error.args[0]) if error.args else ""
    if _CONVERSATION.search(message):
        return
    options = [
        name
        for name in request.options
        if name != "extra" and any(_mentions(message, alias) for alias in _aliases(name))
    ]
    hints: List[str] = []
    if "max_tokens" in options and not _UNKNOWN.search(message):
        # Some providers require it, so omitting it would only cause the next error.
        options.remove("max_tokens")
        hints.append("change max_tokens=")
    omit = [f"{name}=" for name in options]
    extra = request.options.get("extra") or {}
    omit += [f"extra={{{name!r}: …}}" for name in extra if _mentions(message, name)]
    if omit:
        hints.append(f"omit {' or '.join(omit)}; pass None to reset an option of the client")
    if hints:
        error.args = (f"{message} [{', or '.join(hints)}]",)


def _aliases(option: str) -> List[str]:
    head, *rest = option.split("_")
    camel_case = head + "".join(word.capitalize() for word in rest)
    return [option, camel_case, *_PROVIDER_NAMES.get(option, ())]


def _mentions(message: str, name: str) -> bool:
    """Return whether an error message names an option.

    A name that is also an English word must be quoted, or be the subject of a sentence.
    """
    word = re.escape(name)
    if not name.isalpha() or name != name.lower():
        return re.search(rf"(?<![\w.]){word}(?!\w)", message) is not None
    quoted = rf"[`'\"\[]{word}[`'\".\]]"
    verbs = "and|is|was|has|may|must|can|cannot|does|should"
    subject = rf"(?:^|[:.] |\n){word}(?=[:.\[]|,| (?:{verbs})\b|$)"
    return re.search(f"{quoted}|{subject}", message, re.IGNORECASE) is not None
