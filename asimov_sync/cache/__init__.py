"""The cache: one contract, kept in this process's memory or on a Redis server.

Every name is loaded when it is first used: importing MemoryCache does not load redis.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from asimov_sync.cache.base import MISSING as MISSING, Cache as Cache
    from asimov_sync.cache.delivery import Delivery as Delivery, Letter as Letter
    from asimov_sync.cache.memory import MemoryCache as MemoryCache
    from asimov_sync.cache.redis import RedisCache as RedisCache

_MODULES = {
    "Cache": "base",
    "Delivery": "delivery",
    "Letter": "delivery",
    "MISSING": "base",
    "MemoryCache": "memory",
    "RedisCache": "redis",
}

__all__ = ["MISSING", "Cache", "Delivery", "Letter", "MemoryCache", "RedisCache"]

if not TYPE_CHECKING:  # to a type checker, a name that is not imported above is an error

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> List[str]:
        return sorted(set(globals()) | set(__all__))
