"""Retry: how often a failed attempt is repeated, after which wait, and for which exceptions."""

from typing import Any, Callable, Optional, Tuple, Type, Union

from asimov_sync.errors import Cancelled, GraphError, NonRetryableError

__all__ = ["Retry"]

INITIAL_WAIT, MAX_WAIT = 1.0, 60.0

PROGRAMMING_ERRORS = (
    AttributeError,
    GraphError,
    ImportError,
    NameError,
    SyntaxError,
    TypeError,
)
"""Mistakes in the program, which another attempt repeats. Not retried by default."""

Exceptions = Union[Type[BaseException], Tuple[Type[BaseException], ...]]
Predicate = Callable[[BaseException], object]


class Retry:
    """A retry policy for a task. NonRetryableError and Cancelled are never retried.

    attempts: how many attempts a visit has, the first one included; default 3.
    wait: a tenacity wait (`tenacity.wait_fixed(5)`, `tenacity.wait_exponential(max=30)`, or a sum
        of them), which returns seconds. By default 1 second, doubled with each attempt up to 60,
        plus up to 1 second of jitter.
    on: what to retry: an exception class, a tuple of classes, or a function of the exception that
        returns whether to retry. By default every Exception but AttributeError, GraphError,
        ImportError, NameError, SyntaxError and TypeError, which are mistakes in the program;
        `on=Exception` retries these, too.

    Raises ValueError or TypeError for an invalid argument.
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        wait: Optional[Callable[[Any], float]] = None,
        on: Union[Exceptions, Predicate, None] = None,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts= includes the first one: at least 1, not {attempts}")
        if wait is not None and not callable(wait):
            raise TypeError(
                f"wait= is a tenacity wait, such as tenacity.wait_fixed(5); not {wait!r}"
            )
        self.attempts = attempts
        self.wait = wait
        self.on = on
        self._predicate: Optional[Predicate] = None
        self._classes: Tuple[Type[BaseException], ...] = (Exception,)
        if isinstance(on, tuple) or isinstance(on, type):
            self._classes = on if isinstance(on, tuple) else (on,)
            for kind in self._classes:
                if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                    raise TypeError(f"on= takes exception classes, not {kind!r}")
        elif callable(on):
            self._predicate = on
        elif on is not None:
            raise TypeError(
                f"on= is an exception class, a tuple of them, or a function of the exception; "
                f"not {on!r}"
            )

    def should_retry(self, error: BaseException) -> bool:
        """Return whether the policy covers an attempt that raised `error`.

        Raises what a function given as `on=` raises.
        """
        if isinstance(error, (Cancelled, NonRetryableError)):
            return False
        if self._predicate is not None:
            return isinstance(error, Exception) and bool(self._predicate(error))
        if self.on is None and isinstance(error, PROGRAMMING_ERRORS):
            return False
        return isinstance(error, self._classes)

    def wait_seconds(self, attempt: int, error: BaseException) -> float:
        """Return the seconds to wait after attempt number `attempt` raised `error`."""
        import tenacity  # imported here, because most programs never need it

        wait = self.wait or tenacity.wait_exponential_jitter(initial=INITIAL_WAIT, max=MAX_WAIT)
        # The state that tenacity itself passes to a wait.
        state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        state.attempt_number = attempt
        state.set_exception((type(error), error, error.__traceback__))
        return max(0.0, float(wait(state)))

    def __repr__(self) -> str:
        return f"Retry(attempts={self.attempts}, wait={self.wait!r}, on={self.on!r})"
