"""Removes API keys from errors. Servers quote the key they received, in any part of an error."""

import json
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional

from asimov_sync.errors import AsimovError
from asimov_sync.inference.providers.errors import MESSAGE_CHARACTERS

__all__ = ["Headers", "redact_error", "redact_errors"]

Redact = Callable[[str], str]

KEY_HEADERS = ("authorization", "api-key", "x-api-key")
MIN_KEY_CHARACTERS = 6
"""A shorter value is not treated as a secret: it may be part of any word."""


class Headers(Dict[str, str]):
    """Request headers whose repr shows no values, because one of them is the key."""

    def redact(self, message: str) -> str:
        """Return a message with the keys in these headers replaced by "…".

        A key is also found with escapes, as in JSON, and where a long message was cut inside it.
        """
        for name in KEY_HEADERS:
            key = self.get(name, "").rpartition(" ")[2]
            if len(key) >= MIN_KEY_CHARACTERS:
                message = _remove_cut_key(message, key)
                for form in {key, repr(key)[1:-1], json.dumps(key)[1:-1]}:
                    message = message.replace(form, "…")
        return message

    def __repr__(self) -> str:
        return f"<headers {', '.join(self)}>"


def _remove_cut_key(message: str, key: str) -> str:
    """Remove the beginning of a key at the position where long messages are cut."""
    head, rest = message[:MESSAGE_CHARACTERS], message[MESSAGE_CHARACTERS:]
    if len(head) == MESSAGE_CHARACTERS:
        for length in range(len(key) - 1, MIN_KEY_CHARACTERS - 1, -1):
            if head.endswith(key[:length]) and not rest.startswith(key[length:]):
                return head[:-length] + "…" + rest
    return message


@contextmanager
def redact_errors(redact: Redact) -> Iterator[None]:
    """Redact every error of this library that is raised in the `with` block."""
    try:
        yield
    except AsimovError as error:
        redact_error(error, redact)
        raise


def redact_error(error: BaseException, redact: Redact) -> None:
    """Redact the text in an exception and in the exceptions that it is chained to.

    That covers its arguments (the message) and its attributes (error_type, request_id). The reply
    in `partial` is not changed: its text comes from the model.
    """
    pending: List[Optional[BaseException]] = [error]
    seen: List[BaseException] = []
    while pending:
        link = pending.pop()
        if link is None or any(link is other for other in seen):
            continue
        seen.append(link)
        pending += [link.__cause__, link.__context__]
        args = tuple(_redact_value(value, redact) for value in link.args)
        if args != link.args:
            link.args = args
        for name, value in list(vars(link).items()):
            redacted = _redact_value(value, redact)
            if redacted is not value:
                setattr(link, name, redacted)


def _redact_value(value: Any, redact: Redact) -> Any:
    """Return the value redacted, or the same object if nothing changes."""
    if isinstance(value, bytes):
        text = value.decode("latin-1")
        redacted = redact(text)
        return value if redacted == text else redacted.encode("utf-8")
    if not isinstance(value, str):
        return value
    redacted = redact(value)
    return value if redacted == value else redacted
