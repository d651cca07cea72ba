"""Blocking calls for coroutines: which thread makes them, and what a cancelled coroutine does to the call beneath.

What may wait without a bound (a mailbox, a stream, a run) has a thread to itself, a `Lane`; so no number of such waits keeps
another call from its turn, and one too many is an error and no deadlock. What is short shares a few threads. Neither takes a
thread of the event loop's own executor, which others need, to resolve names for instance.

A thread knows nothing of event loops: it ends a `concurrent.futures.Future`, and whoever waits for that is told through its
loop, if there still is one.
"""

import asyncio
import concurrent.futures
import logging
import queue
import weakref
from typing import Any, Callable, Iterable, List, Optional, Set, Tuple, TypeVar

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import Cancelled, WorkersClosed, WorkersExhausted
from asimov_sync.forking import ForkSafeLock
from asimov_sync.workers import WorkerPool, alarms

__all__ = ["CANCELLED", "MAX_THREADS", "Lane", "Threads"]

logger = logging.getLogger(__name__)

MAX_THREADS = 256
"""How many calls of one facade may wait at once, where nothing else is said. A thread that waits costs some 50 KB."""

SHORT_THREADS = 8
"""How many short calls of one facade are made at once; the others have their turn after them."""

FREEING_SECONDS = 1.0
"""How long a coroutine that was cancelled waits for the end of the call beneath. Milliseconds, unless that ignores it."""

TURN_SECONDS = 0.1
"""How long the start of a thread waits for a turn of the event loop after the one before."""

CANCELLED = "the coroutine was cancelled"
CLOSED = "the async facade was closed"

Result = TypeVar("Result")
Undo = Optional[Callable[[Any], Any]]


class _Lanes(ForkSafeLock):
    """The lanes that are open, and whether more may be opened. A forked child has none of its parent's."""

    __slots__ = ("closed", "open")

    def renew(self) -> None:
        super().renew()
        self.open: Set[Lane] = set()
        self.closed = getattr(self, "closed", False)


class Threads:
    """The threads of one facade. Belongs to no event loop: coroutines of several may use it at once."""

    def __init__(self, max_threads: int = MAX_THREADS) -> None:
        if max_threads < 1:
            raise ValueError(
                "max_threads is the number of calls that may wait at once, 1 at least; not {}".format(max_threads)
            )
        self.limit = max_threads
        self._long = WorkerPool(None, name="asimov-aio-wait")
        self._short = WorkerPool(SHORT_THREADS, name="asimov-aio")
        self._starters: "weakref.WeakKeyDictionary[Any, WorkerPool]" = weakref.WeakKeyDictionary()  # by the event loops
        self._lanes = _Lanes()
        self._closing: "concurrent.futures.Future[None]" = concurrent.futures.Future()

    async def short(self, function: Callable[..., Result], *args: Any, undo: Undo = None) -> Result:
        """The result of a call that is bounded by itself. Cancelled, it is not made, or left to its end.

        undo: called with its result, should it come although nobody waits for it any more.
        """
        self._refuse_if_closed()
        undo = _once(undo)
        future: "concurrent.futures.Future[Result]" = self._short.submit(function, *args)
        try:
            await _told(future, lambda: _undo(future, undo))
        except asyncio.CancelledError:
            if not future.cancel():
                self.elsewhere(_undo, future, undo)
            raise
        return future.result()

    async def wait(
        self,
        function: Callable[..., Result],
        *args: Any,
        cancellation: Optional[Cancellation] = None,
        free: Optional[Callable[[], Any]] = None,
        undo: Undo = None,
    ) -> Result:
        """The result of a call that may wait without a bound. Cancelled, the call ends, too.

        cancellation: what ends it as well, the current token where not given. free: what ends it, if its token does not.
        undo: called with its result, should it come although nobody waits for it any more.
        """
        lane = None
        try:
            lane = self.lane(cancellation)
            lane.free = free
            return await lane.call(lambda: function(*args), undo)
        finally:
            if lane is not None:
                lane.leave()

    def lane(self, cancellation: Optional[Cancellation] = None) -> "Lane":
        """A thread for calls that follow one another; WorkersExhausted where there are too many already."""
        lane = Lane(self, cancellation)
        alarms.start()  # while it is safe to: a destructor may need them
        with self._lanes.lock:
            self._refuse_if_closed()
            if len(self._lanes.open) >= self.limit and len(self._going_on()) >= self.limit:
                raise WorkersExhausted(
                    "{0} streams, runs or mailboxes wait at once, and to_async(…, max_threads={0}) has no thread for "
                    "another: close streams that are not read on, or give it more".format(self.limit)
                )
            self._lanes.open.add(lane)
        try:
            self._start(lane.serve, lane.refuse)
        except BaseException:
            self.closed(lane)
            raise
        return lane

    def _going_on(self) -> List["Lane"]:
        """The lanes that nobody has left; those whose event loops were closed are left here. Holds the lock."""
        for lane in self._lanes.open:
            if lane.loop.is_closed() and not lane.left:
                lane.left = True
                self._afterwards(lane.end, "its event loop was closed")
        return [lane for lane in self._lanes.open if not lane.left]

    def closed(self, lane: "Lane") -> None:
        """A lane's thread is at its end, or as good as there."""
        with self._lanes.lock:
            self._lanes.open.discard(lane)

    def elsewhere(self, function: Callable[..., Any], *args: Any) -> "concurrent.futures.Future[Any]":
        """Call what may block on a thread beside the lanes; a future that is done after that."""
        done: "concurrent.futures.Future[Any]" = concurrent.futures.Future()

        def call() -> None:
            try:
                function(*args)
            except Exception:  # nobody waits for what it returns or raises
                logger.exception("what an async facade had to end could not be ended")
            finally:
                done.set_result(None)

        try:
            self._start(call, lambda error: done.set_result(None))
        except WorkersClosed:  # then the lanes were ended by that, and had their time to
            done.set_result(None)
        return done

    def _afterwards(self, function: Callable[..., Any], *args: Any) -> None:
        """Call what may block, from where no lock may be waited for and no loop is left to wait."""

        def submit() -> None:
            try:
                self._long.submit(function, *args)
            except WorkersClosed:
                pass  # as above

        alarms.call_at(0.0, submit)

    def _start(self, function: Callable[[], Any], otherwise: Callable[[Exception], Any]) -> None:
        """Have a function called on a thread of its own; `otherwise`, if there can be none.

        Not here, since a thread that starts another one waits until that one runs. And one thread for each turn of the event
        loop, since many that start at once would keep the interpreter's lock from the loop's thread for long: two hundred
        streams opened at once held up the loop for half a second.
        """
        loop = asyncio.get_running_loop()

        def start() -> None:
            try:
                self._long.submit(function)
            except Exception as error:
                otherwise(error)
            turn: "queue.SimpleQueue[None]" = queue.SimpleQueue()
            try:
                loop.call_soon_threadsafe(turn.put, None)
                turn.get(timeout=TURN_SECONDS)
            except (RuntimeError, queue.Empty):
                pass  # the loop is closed, or busy on its own account

        with self._lanes.lock:
            starter = self._starters.get(loop)
            if starter is None:
                starter = self._starters[loop] = WorkerPool(1, name="asimov-aio-start")
        starter.submit(start)

    # The end

    def _refuse_if_closed(self) -> None:
        if self._lanes.closed:
            raise WorkersClosed(CLOSED + ": make a new one with to_async()")

    async def close(self, function: Callable[[], Any]) -> None:
        """End what goes on, call `function()`, which closes what is beneath, and take no more calls. Once begun it goes on,
        whether or not anybody waits for it.
        """
        with self._lanes.lock:
            first, self._lanes.closed = not self._lanes.closed, True
        if first:
            self._long.submit(self._close, function)
        await _told(self._closing)
        self._closing.result()

    def _close(self, function: Callable[[], Any]) -> None:
        try:
            with self._lanes.lock:
                lanes, starters = list(self._lanes.open), list(self._starters.values())
            for starter in starters:  # after it, nothing that was to be started is still to be
                starter.submit(int).result(len(lanes) * TURN_SECONDS + FREEING_SECONDS)
            for lane in lanes:
                lane.end(CLOSED)
                lane.leave()
            concurrent.futures.wait([lane.over for lane in lanes], FREEING_SECONDS)
            function()
        except BaseException as error:
            self._closing.set_exception(error)
        else:
            self._closing.set_result(None)
        finally:
            for pool in [self._short, self._long] + starters:
                pool.shutdown(wait=False)

    def __repr__(self) -> str:
        return "{} of {} threads".format(len(self._lanes.open), self.limit)


class Lane:
    """One thread that makes one call after the other, all in one context, the one it was opened in, under one token.

    free: called where its token was cancelled, for what that does not end. over: done when the thread is at its end. left:
    whether there will be no more calls.
    """

    def __init__(self, threads: Threads, cancellation: Optional[Cancellation]) -> None:
        self.free: Optional[Callable[[], Any]] = None
        self.over: "concurrent.futures.Future[Any]" = concurrent.futures.Future()
        self.left = False
        self.loop = asyncio.get_running_loop()
        self._threads = threads
        self._token = Cancellation(parent=cancellation or Cancellation.current())
        self._busy = False  # whether a call goes on
        self._reason: Optional[str] = None  # why it was ended
        self._error: Optional[Exception] = None  # what calls raise when there is no thread (any more)
        # The next call; or None for the end, and the reason if what was opened is to be freed. Destructors put, too, which a
        # SimpleQueue allows.
        self._calls: "queue.SimpleQueue[Tuple[Optional[concurrent.futures.Future[Any]], Any]]" = queue.SimpleQueue()

    async def call(self, function: Callable[[], Result], undo: Undo = None) -> Result:
        """The result of the next call. Where the coroutine is cancelled, so is the token, and the lane is of no more use."""
        future: "concurrent.futures.Future[Result]" = concurrent.futures.Future()
        undo = _once(undo)
        self._calls.put((future, function))
        if self._error is not None:  # looked at after the put, and set before the thread takes its last look
            self._fail_calls(self._error)
        self._busy = True
        try:
            await _told(future, lambda: self._unheard(future, undo))
        except asyncio.CancelledError:
            self._reason = self._reason or CANCELLED
            # Elsewhere, since its callbacks may do IO, and since this thread is the event loop's.
            await _patiently([self._threads.elsewhere(self.end, CANCELLED, future, undo)])
            raise
        except GeneratorExit:  # the event loop is gone, and so is whoever waited
            self._threads._afterwards(self.end, CANCELLED, future, undo)
            raise
        finally:
            self._busy = not future.done()
        return future.result()

    def _unheard(self, future: "concurrent.futures.Future[Any]", undo: Undo) -> None:
        """A result came, and the event loop of whoever waited for it is closed."""
        _undo(future, undo)
        self.drop()

    def end(self, reason: str, future: "Optional[concurrent.futures.Future[Any]]" = None, undo: Undo = None) -> None:
        """End the call that goes on, from another thread, and wait until it is over."""
        self._reason = self._reason or reason
        self._token.cancel(reason)
        if self.free is not None:
            self.free()
        if future is not None:
            _undo(future, undo)

    async def close(self, reason: str) -> None:
        """End the call that goes on, free what was opened, and end the thread."""
        freed = []
        if self._busy:
            freed.append(self._threads.elsewhere(self.end, reason))
            self.leave()
        else:
            self.drop(reason)
        await _patiently([self.over] + freed)

    def leave(self) -> None:
        """Let the thread end, after what it was given to do; where that is done, another may have its place at once."""
        self.left = not self._busy
        if self.left:
            self._threads.closed(self)
        self._calls.put((None, None))

    def drop(self, reason: str = "nobody reads it any more") -> None:
        """Let the thread free what was opened, and end. For destructors, too: takes no lock, and calls nothing here."""
        self.left = not self._busy
        self._calls.put((None, reason))

    def serve(self) -> None:
        """The thread's own: make one call after the other."""
        try:
            with self._token:
                while True:
                    future, function = self._calls.get()
                    if future is None:
                        if function is not None:
                            self.end(function)
                        break
                    try:
                        if self._reason is not None:
                            raise Cancelled(self._reason)  # before its turn had come
                        result = function()
                    except BaseException as error:
                        future.set_exception(error)
                        del error
                    else:
                        future.set_result(result)
                        del result
                    del future, function  # nothing is to live until the next call comes
        finally:
            self.refuse(Cancelled(self._reason or "the stream was closed"))

    def refuse(self, error: Exception) -> None:
        """There is no thread, or none any more: whoever calls has the error."""
        self._error = error
        self._fail_calls(error)
        self._threads.closed(self)
        self.over.set_result(None)

    def _fail_calls(self, error: Exception) -> None:
        while True:
            try:
                future, _ = self._calls.get_nowait()
            except queue.Empty:
                return
            if future is not None:
                future.set_exception(error)


def _once(undo: Undo) -> Undo:
    """The same, for one call of it: the thread and the loop may both find that nobody waits."""
    if undo is None:
        return None
    left = [undo]
    return lambda result: left.pop()(result) if left else None


def _undo(future: "concurrent.futures.Future[Any]", undo: Undo) -> None:
    if not future.cancelled() and future.exception() is None and undo is not None:
        undo(future.result())


def _told(future: "concurrent.futures.Future[Any]", unheard: Optional[Callable[[], Any]] = None) -> "asyncio.Future[None]":
    """An event loop's future that is done when the thread's is, whatever came of it. unheard: called if the loop is closed."""
    loop = asyncio.get_running_loop()
    told: "asyncio.Future[None]" = loop.create_future()

    def set() -> None:
        if not told.done():
            told.set_result(None)

    def tell(_: Any) -> None:
        try:
            loop.call_soon_threadsafe(set)
        except RuntimeError:
            if unheard is not None:
                unheard()

    future.add_done_callback(tell)
    return told


async def _patiently(futures: "Iterable[concurrent.futures.Future[Any]]") -> None:
    """Wait until all of them are done, but not for long."""
    await asyncio.wait([_told(future) for future in futures], timeout=FREEING_SECONDS)
