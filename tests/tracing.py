"""Acts at an exact moment of a call, as a signal, Ctrl-C or a fork may strike there.

Python's own hooks for debuggers and profilers find the moment, so the code under test is unchanged.
"""

import contextlib
import itertools
import sys
import threading

from .waiting import DEADLINE, Background, wait_for


@contextlib.contextmanager
def at_each_line(module, act):
    """Call `act(number)` before each line of a module that this thread executes in the block.

    number: counts the lines from 0.
    """
    numbers = itertools.count()

    def trace_call(frame, event, argument):
        return trace_line if frame.f_code.co_filename == module.__file__ else None

    def trace_line(frame, event, argument):
        if event == "line":
            act(next(numbers))
        return trace_line

    previous = sys.gettrace()
    sys.settrace(trace_call)
    try:
        yield
    finally:
        sys.settrace(previous)


@contextlib.contextmanager
def around_builtin(function, name, before=None, after=None):
    """Call `before()` and `after()` around each call of a built-in that this thread makes.

    function: the function, written in Python, whose calls count.
    name: the name of the built-in function or method.

    If `after` raises, the exception is raised in `function`, as if Ctrl-C struck after the call.
    """
    actions = {"c_call": before, "c_return": after}

    def profile(frame, event, argument):
        act = actions.get(event)
        if act and frame.f_code is function.__code__ and argument.__name__ == name:
            act()

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(previous)


@contextlib.contextmanager
def holding_lock(module, call, probe):
    """Stop another thread in the middle of `call()`, where it holds a lock, for the block.

    module: the thread stops at the first line of this module at which `probe()`, called on a third
        thread, blocks.
    call: a function; it may be called several times.
    probe: a function; it may be called several times.
    """
    for stop_at in itertools.count():
        stopped, release = threading.Event(), threading.Event()

        def stop(number, stop_at=stop_at, stopped=stopped, release=release):
            if number == stop_at:
                stopped.set()
                assert release.wait(DEADLINE)

        def make_call(stop=stop):
            with at_each_line(module, stop):
                call()

        holder = Background(make_call)
        wait_for(lambda: stopped.is_set() or not holder.thread.is_alive(), "the line")
        assert stopped.is_set(), f"the call executes {stop_at} lines, and the probe never blocks"
        probing = Background(probe)
        probing.thread.join(0.05)
        try:
            if probing.thread.is_alive():
                yield
                return
        finally:
            release.set()
            holder.result()
            probing.result()
