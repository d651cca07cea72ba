"""The models of the library: Task and the messages. Their schemas are built on first use."""

import os
import signal
import subprocess
import sys

import pytest

from asimov_sync import ChatMessage, Task

from .tiers import by_tier, suite


class SignalledInTheBuild:
    """A type of a field. While its schema is built, the process receives a signal."""

    received = []

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(1000):
            pass  # a signal handler would be called here
        cls.received.append("built")
        return handler(int)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals of POSIX")
def test_signal_handlers_run_after_the_build():
    """A signal that arrives while the schema is built is handled before the object is made."""
    received = SignalledInTheBuild.received

    def interrupt(number, frame):
        received.append("signal")
        raise KeyboardInterrupt

    class Special(Task):
        field: SignalledInTheBuild = 0

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        received.clear()
        with pytest.raises(KeyboardInterrupt):
            Special(type="a")
        assert received == ["built", "signal"]
        assert signal.getsignal(signal.SIGUSR1) is interrupt
        assert Special(type="a").field == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


PROGRAM = """
import signal, sys
from asimov_sync import Task

signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
try:
    Task(type="a")
    while True:
        pass
except KeyboardInterrupt:
    print(Task(type="usable").type)
"""


@suite
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs signals of POSIX")
@pytest.mark.parametrize("step", range(by_tier(3, soak=60)))
def test_interrupt_in_the_first_task(step):
    """Ctrl-C in the first Task() of a process is a KeyboardInterrupt, and Task is usable then."""
    delay = 0.0025 + step * by_tier(0.001, soak=0.0001)
    output = subprocess.check_output([sys.executable, "-c", PROGRAM, str(delay)], timeout=60)
    assert output.split() == [b"usable"]


@pytest.mark.parametrize("model, example", [(Task, "type=…"), (ChatMessage, "role=…, content=…")])
def test_positional_arguments(model, example):
    """The models take keyword arguments; the error shows the required ones."""
    with pytest.raises(TypeError, match=f"{model.__name__} takes keyword arguments.*{example}"):
        model("text")
