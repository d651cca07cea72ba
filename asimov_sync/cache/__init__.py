"""The cache: one contract, kept in this process's memory, in a SQLite file or on a Redis server.

Every name is loaded when it is first used: importing MemoryCache loads neither redis nor sqlite3.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.cache.base import MISSING as MISSING, Cache as Cache
    from asimov_sync.cache.delivery import Delivery as Delivery, Letter as Letter
    from asimov_sync.cache.memory import MemoryCache as MemoryCache
    from asimov_sync.cache.redis import RedisCache as RedisCache
    from asimov_sync.cache.sqlite import SQLiteCache as SQLiteCache

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "base": "Cache MISSING",
            "delivery": "Delivery Letter",
            "memory": "MemoryCache",
            "redis": "RedisCache",
            "sqlite": "SQLiteCache",
        },
    )
