"""Meters: every reply is charged to the meters of the context that asked."""

import contextvars
import sys
import threading

from asimov_sync import Usage
from asimov_sync.metering import METERS, Meter


def test_meters_nest():
    """Inside two meters both are charged; after the inner one's block only the outer one is."""
    with Meter() as outer:
        with Meter() as inner:
            assert METERS.get() == (outer, inner)
        assert METERS.get() == (outer,)
    assert METERS.get() == ()


def test_a_copied_context_has_its_meters():
    """Work in a copy of the context finds the meters of the original."""
    with Meter() as meter:
        context = contextvars.copy_context()
    assert context.run(METERS.get) == (meter,)


def test_the_sum_is_exact_under_threads():
    """Eight threads that add at once lose nothing."""
    meter = Meter()
    start = threading.Barrier(8)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def add():
        start.wait()
        for _ in range(300):
            meter.add(Usage(input_tokens=1, requests=1))

    try:
        threads = [threading.Thread(target=add) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert meter.usage == Usage(input_tokens=2400, requests=2400)
