"""StoreOptions: the arguments of a run that are about its store."""

from typing import Any, Mapping, NamedTuple, Optional, Union

__all__ = ["IfChanged", "StoreOptions"]

IfChanged = Union[str, Mapping[str, str]]
"""The policy for finished tasks that were changed or removed: "raise", "keep" or "rerun"."""


class StoreOptions(NamedTuple):
    """The arguments of `TaskScheduler.submit` that are about the store, and the run's flow."""

    tags: Optional[Mapping[str, str]] = None
    restart: bool = False
    retry_failed: bool = False
    if_running: str = "raise"
    if_changed: IfChanged = "raise"
    flow: Optional[str] = None
    args: Optional[Mapping[str, Any]] = None
