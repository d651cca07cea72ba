"""Key arithmetic: how a caller's key, its namespace and its kind become the one string that a backend stores under.

A stored key is `prefix:key:suffix`, prefixes from the outermost to the innermost, suffixes the other way round, so that a
parent's namespace encloses its children's. A separator *inside* a prefix or suffix is escaped as a URL would escape it, and
so is the escape character: the prefix "a:b" is not the prefix "a" followed by the prefix "b". The caller's key is taken as
it is: "b:c" under the prefix "a" is the key "c" of the child namespace "b".

What is not a JSON value carries its kind behind a NUL, which no key may contain: `prefix:key:suffix<NUL>raw`.
"""

from typing import NamedTuple, Optional, Tuple

from asimov_sync.errors import CacheKeyError

__all__ = ["MAILBOX", "RAW", "VALUE", "Namespace"]

_NUL = "\0"
VALUE = ""
RAW = _NUL + "raw"
MAILBOX = _NUL + "mailbox"


class Namespace(NamedTuple):
    """What stands before and after a caller's key: `head` ends and `tail` begins with the separator, or is empty."""

    head: str = ""
    tail: str = ""
    separator: str = ":"

    def with_prefix(self, prefix: str) -> "Namespace":
        """The namespace of `prefix` inside this one; the empty prefix adds nothing."""
        return self._replace(head=self.head + self._part(prefix) + self.separator) if prefix else self

    def with_suffix(self, suffix: str) -> "Namespace":
        """The namespace of `suffix` inside this one; the empty suffix adds nothing."""
        return self._replace(tail=self.separator + self._part(suffix) + self.tail) if suffix else self

    def _part(self, affix: str) -> str:
        checked(affix)
        for character in ("%",) + tuple(self.separator):
            affix = affix.replace(character, "%{:02X}".format(ord(character)))
        return affix

    def key(self, name: str, kind: str = VALUE) -> str:
        """Where the caller's `name` is stored."""
        return self.head + checked(name) + self.tail + kind

    def split(self, key: str) -> Optional[Tuple[str, str]]:
        """The caller's name and the kind of what is stored under `key`; None if it is not of this namespace."""
        place, nul, kind = key.partition(_NUL)
        # Both ends of "a:a" match the prefix and the suffix "a", although there is no key between them.
        inside = len(place) >= len(self.head) + len(self.tail)
        if not inside or not place.startswith(self.head) or not place.endswith(self.tail):
            return None
        return place[len(self.head) : len(place) - len(self.tail)], nul + kind

    @property
    def unbounded(self) -> bool:
        """Whether it holds every key there is."""
        return not self.head and not self.tail


def checked(name: str) -> str:
    """The name itself; CacheKeyError if it cannot be (a part of) a key."""
    if not isinstance(name, str):
        raise CacheKeyError("a key, prefix, suffix or mailbox is a str, not {!r}".format(type(name).__name__))
    if _NUL in name:
        raise CacheKeyError("{!r} contains a NUL character, which separates a key from its kind".format(name))
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise CacheKeyError("{!r} is not valid Unicode text".format(name)) from None
    return name
