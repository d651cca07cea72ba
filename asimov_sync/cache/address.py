"""CacheAddress: what another process needs to open the same cache."""

from typing import Any, NamedTuple, Tuple

from asimov_sync.cache.keys import Namespace

__all__ = ["CacheAddress"]


class CacheAddress(NamedTuple):
    """The place of a cache that processes share. Its repr has no password.

    kind: "redis" or "sqlite".
    options: the arguments that its class was called with, by name.
    namespace: the namespace in it.
    """

    kind: str
    options: Tuple[Tuple[str, Any], ...]
    namespace: Namespace = Namespace()

    def __repr__(self) -> str:
        return f"<CacheAddress: {self.kind}, {self.namespace.key('…')!r}>"
