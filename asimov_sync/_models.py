"""LazyModel: a pydantic model whose schema is built when the first object of it is made.

This keeps the build out of the import. Signal handlers run after the build, not during it: in old
releases of pydantic, the KeyboardInterrupt of Ctrl-C in a build becomes a PanicException.
"""

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Tuple

from pydantic import BaseModel, ConfigDict

__all__ = ["LazyModel"]


class LazyModel(BaseModel):
    """Base of models with keyword arguments only."""

    model_config = ConfigDict(defer_build=True)

    if not TYPE_CHECKING:  # a type checker knows the arguments from the fields

        def __new__(cls, *args: Any, **values: Any) -> Any:
            if args:
                fields = cls.model_fields.items()
                required = [name for name, field in fields if field.is_required()]
                example = ", ".join(f"{name}=…" for name in required or list(cls.model_fields)[:3])
                raise TypeError(
                    f"{cls.__name__} takes keyword arguments, such as "
                    f"{cls.__name__}({example}); not {args[0]!r} by position"
                )
            if not cls.__pydantic_complete__:
                with _delay_signals():
                    cls.model_rebuild()
            return object.__new__(cls)


@contextlib.contextmanager
def _delay_signals() -> Iterator[None]:
    """Delay the handlers of signals that arrive in the block until the block has ended.

    Does nothing on other threads, since signal handlers are only called on the main thread.
    """
    handlers: List[Tuple[int, Callable[..., Any]]] = []
    received: List[Tuple[Callable[..., Any], Tuple[Any, ...]]] = []
    try:
        if threading.current_thread() is threading.main_thread():
            for number in range(1, signal.NSIG):
                handler = _python_handler(number)
                if handler is not None:
                    handlers.append((number, handler))
                    signal.signal(number, _recorder(handler, received))
        yield
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    for handler, args in received:
        handler(*args)


def _python_handler(number: int) -> Any:
    """Return the Python function that handles a signal; None if there is none."""
    try:
        handler = signal.getsignal(number)
    except ValueError:  # no signal has this number
        return None
    return handler if callable(handler) and not isinstance(handler, signal.Handlers) else None


def _recorder(handler: Any, received: List[Any]) -> Callable[..., None]:
    return lambda *args: received.append((handler, args))
