"""What is over in a run, on its way to the hooks."""

import threading
from typing import Any, Deque, Optional, Tuple

__all__ = ["Endings"]


class Endings(Deque[Tuple[Any, Any, Optional[BaseException]]]):
    """The ends that the hooks are still to be told of, each noted while the run's lock is held: whose, with what, or why."""

    def __init__(self) -> None:
        super().__init__()
        self._telling = threading.Lock()

    def tell(self) -> None:
        """Without the run's lock: tell them, in that order, one thread at a time, so that the run's own end is the last."""
        while self and self._telling.acquire(False):
            try:
                while self:
                    one, came, error = self[0]
                    if one.watch is not None:
                        one.watch.end(came, error)
                    self.popleft()  # only now, since who waits for the run waits for this, too
            finally:
                self._telling.release()
