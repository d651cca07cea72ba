"""Stored keys and stored message ids: how names of the caller become strings of a backend.

A stored key is `prefix:key:suffix`. Prefixes go from the outermost to the innermost, suffixes the
other way round, so a parent's namespace encloses its children's. A separator *inside* a prefix or
suffix is percent-encoded, and so is the percent sign: the prefix "a:b" differs from the prefix "a"
followed by the prefix "b". The caller's key is stored unchanged: "b:c" under the prefix "a" is the
key "c" of the child namespace "b".

Keys of anything but JSON values end in a NUL, which no caller's key may contain, and their kind:
`prefix:key:suffix<NUL>raw`.

A stored message id is "=" and the publisher's id, or "~" and an id that the library generated.
"""

import uuid
from typing import List, NamedTuple, Optional, Tuple

from asimov_sync.errors import CacheKeyError

__all__ = [
    "MAILBOX",
    "RAW",
    "RUN",
    "VALUE",
    "Namespace",
    "candidate_ids",
    "check_key",
    "is_generated",
    "public_id",
    "stored_id",
]

_NUL = "\0"
VALUE = ""
RAW = _NUL + "raw"
MAILBOX = _NUL + "mailbox"
RUN = _NUL + "run"

_GIVEN = "="
_GENERATED = "~"


class Namespace(NamedTuple):
    """The text before and after a caller's key.

    head: empty, or ends with the separator.
    tail: empty, or starts with the separator.
    separator: the text between the parts.
    """

    head: str = ""
    tail: str = ""
    separator: str = ":"

    def with_prefix(self, prefix: str) -> "Namespace":
        """Return the namespace of `prefix` inside this one; this one if the prefix is empty."""
        if not prefix:
            return self
        return self._replace(head=self.head + self._escape(prefix) + self.separator)

    def with_suffix(self, suffix: str) -> "Namespace":
        """Return the namespace of `suffix` inside this one; this one if the suffix is empty."""
        if not suffix:
            return self
        return self._replace(tail=self.separator + self._escape(suffix) + self.tail)

    def _escape(self, affix: str) -> str:
        check_key(affix)
        for character in ("%",) + tuple(self.separator):
            affix = affix.replace(character, f"%{ord(character):02X}")
        return affix

    def key(self, name: str, kind: str = VALUE) -> str:
        """Return the stored key of the caller's key `name`."""
        return self.head + check_key(name) + self.tail + kind

    def split(self, key: str) -> Optional[Tuple[str, str]]:
        """Return the caller's key and the kind of a stored key; None if it is outside."""
        path, nul, kind = key.partition(_NUL)
        # Both ends of "a:a" match the prefix and the suffix "a", although no key is between them.
        if len(path) < len(self.head) + len(self.tail):
            return None
        if not path.startswith(self.head) or not path.endswith(self.tail):
            return None
        return path[len(self.head) : len(path) - len(self.tail)], nul + kind

    @property
    def unbounded(self) -> bool:
        """True if the namespace contains every key of the database."""
        return not self.head and not self.tail


def check_key(name: str) -> str:
    """Return the name; raise CacheKeyError if it cannot be (part of) a key."""
    if not isinstance(name, str):
        raise CacheKeyError(
            f"a key, prefix, suffix or mailbox is a str, not {type(name).__name__!r}"
        )
    if _NUL in name:
        raise CacheKeyError(
            f"{name!r} contains a NUL character, which separates a key from its kind"
        )
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise CacheKeyError(f"{name!r} is not valid Unicode text") from None
    return name


def stored_id(message_id: Optional[str]) -> str:
    """Return the stored form of the publisher's id; None generates an id."""
    return _GENERATED + uuid.uuid4().hex if message_id is None else _GIVEN + message_id


def candidate_ids(message_id: str) -> List[str]:
    """Return the stored ids that `message_id` may have: given by the publisher, or generated."""
    return [_GIVEN + message_id, _GENERATED + message_id]


def public_id(stored: str) -> str:
    """Return the id of a stored message as its publisher knows it."""
    return stored[1:]


def is_generated(stored: str) -> bool:
    """Return whether the library generated the id."""
    return stored.startswith(_GENERATED)
