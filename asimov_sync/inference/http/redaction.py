"""Removes API keys from errors. Servers quote the key that they were sent, in any text that becomes part of an error."""

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional

from asimov_sync.errors import AsimovError

__all__ = ["redact_error", "redact_errors"]

Redact = Callable[[str], str]


@contextmanager
def redact_errors(redact: Redact) -> Iterator[None]:
    """Redact every error of this library that is raised in the `with` block, whatever the status of the response was."""
    try:
        yield
    except AsimovError as error:
        redact_error(error, redact)
        raise


def redact_error(error: BaseException, redact: Redact) -> None:
    """Replace the text in an exception, and in the exceptions that it is chained to, by what `redact` makes of it.

    That is its arguments (the message) and its attributes (error_type, request_id). The reply in `partial` is not
    changed: it is what the model said.
    """
    pending: List[Optional[BaseException]] = [error]
    seen: List[BaseException] = []
    while pending:
        link = pending.pop()
        if link is None or any(link is one for one in seen):
            continue
        seen.append(link)
        pending += [link.__cause__, link.__context__]
        args = tuple(_redacted(value, redact) for value in link.args)
        if args != link.args:
            link.args = args
        for name, value in list(vars(link).items()):
            redacted = _redacted(value, redact)
            if redacted is not value:
                setattr(link, name, redacted)


def _redacted(value: Any, redact: Redact) -> Any:
    """The value itself if it holds no text to be changed."""
    if isinstance(value, bytes):
        text = value.decode("latin-1")
        redacted = redact(text)
        return value if redacted == text else redacted.encode("utf-8")
    if not isinstance(value, str):
        return value
    redacted = redact(value)
    return value if redacted == value else redacted
