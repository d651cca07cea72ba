"""The cache in a SQLite file."""

import os
from typing import Union

from asimov_sync.cache.address import CacheAddress
from asimov_sync.cache.base import Cache
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.sqlite_connection import SQLiteConnection
from asimov_sync.cache.sqlite_store import SQLiteStore

__all__ = ["SQLiteCache"]


class SQLiteCache(Cache):
    """A cache in a file, shared by the processes of one machine. Needs no server.

    path: the file, as a str or a path object. The first write creates it, for its owner only. A
        relative path is relative to the current folder at this call; "~" is not replaced.
    default_prefix: the namespace of the cache; "" (the default) adds no prefix.
    default_suffix: the suffix of the cache's keys; "" (the default) adds no suffix.
    separator: the text between prefix, key and suffix; ":" by default.
    max_deliveries: the number of deliveries without an acknowledgement after which a message
        becomes a dead letter; 5 by default.
    synchronous: "full" (the default): what a call has written survives a power failure; or
        "normal": it survives the end of the process, and is several times faster.

    Safe to use from every thread and in a forked child. The file belongs on a local disk: on a
    network file system, the first call raises CacheUnavailable.

    Raises ValueError for an empty path, ":memory:" or another value of `synchronous`.
    """

    def __init__(
        self,
        path: "Union[str, os.PathLike[str]]",
        *,
        default_prefix: str = "",
        default_suffix: str = "",
        separator: str = ":",
        max_deliveries: int = 5,
        synchronous: str = "full",
    ) -> None:
        path = os.fsdecode(path)
        if path in ("", ":memory:"):
            raise ValueError(
                f"path names a file, not {path!r}: for a cache in memory, use MemoryCache()"
            )
        if synchronous not in ("full", "normal"):
            raise ValueError(f"synchronous is 'full' or 'normal', not {synchronous!r}")
        namespace = Namespace(separator=separator)
        namespace = namespace.with_prefix(default_prefix).with_suffix(default_suffix)
        connection = SQLiteConnection(os.path.abspath(path), synchronous)
        store = SQLiteStore(connection, max_deliveries)
        super().__init__(store, namespace)
        self.path = connection.path
        options = {
            "path": self.path,
            "max_deliveries": max_deliveries,
            "synchronous": synchronous,
        }
        store.address = CacheAddress("sqlite", tuple(options.items()))

    def __repr__(self) -> str:
        return f"<SQLiteCache {self.path!r} of {self._namespace.key('…')!r}>"
