"""The watch for keys can find one: in a log record, in an error, behind a chain, in an object that it holds, in a span."""

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider

from .secrets import SECRET, holds_secret

KEY = SECRET + "-planted"


class Holder:
    def __init__(self, held):
        self.held = held


def chained():
    try:
        raise ValueError("x", {"headers": {"x-api-key": KEY}})
    except ValueError:
        try:
            raise RuntimeError("y")
        except RuntimeError as error:
            return error


@pytest.mark.parametrize(
    "planted",
    [ValueError(KEY), ValueError(Holder([Holder((1, KEY))])), chained(), Holder({KEY: 1}), Holder(KEY.encode())],
    ids=["message", "object", "context", "name", "bytes"],
)
def test_a_planted_key_is_found(planted):
    """Wherever an object holds a key, the way to it is told."""
    assert holds_secret(planted)


def test_nothing_is_found_where_nothing_is():
    """An object without a key has no way to one, cycles included."""
    cycle = []
    cycle.append(cycle)
    assert holds_secret([1, "a", b"b", ValueError("c"), Holder(cycle)]) is None


def test_a_logged_key_is_found(watch):
    """A key in a log record, at any level, is a finding."""
    logging.getLogger("asimov_sync.planted").debug("the headers are %s", {"x-api-key": KEY})
    assert watch.records
    assert [finding for finding in watch.look() if "log record" in finding]


@pytest.mark.parametrize("place", ["name", "attribute", "event"])
def test_a_key_in_a_span_is_found(place, watch):
    """Wherever a span that has ended holds a key, it is a finding."""
    span = TracerProvider(shutdown_on_exit=False).get_tracer("planted").start_span(KEY if place == "name" else "planted")
    if place == "attribute":
        span.set_attribute("headers", ["x-api-key", KEY])
    if place == "event":
        span.add_event("sent", {"key": KEY})
    span.end()
    assert len([finding for finding in watch.look() if "span" in finding]) == 1
