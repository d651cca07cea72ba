"""The search for keys finds one in log records, errors, their chains and attributes, and spans."""

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider

from .secrets import SECRET, find_secret

KEY = SECRET + "-planted"


class Holder:
    def __init__(self, value):
        self.value = value


def make_chained_error():
    try:
        raise ValueError("x", {"headers": {"x-api-key": KEY}})
    except ValueError:
        try:
            raise RuntimeError("y")
        except RuntimeError as error:
            return error


@pytest.mark.parametrize(
    "planted",
    [
        ValueError(KEY),
        ValueError(Holder([Holder((1, KEY))])),
        make_chained_error(),
        Holder({KEY: 1}),
        Holder(KEY.encode()),
    ],
    ids=["message", "object", "context", "name", "bytes"],
)
def test_planted_key(planted):
    """The path to a key in an object is found."""
    assert find_secret(planted)


def test_no_key():
    """Nothing is found in an object without a key, even if it contains itself."""
    cycle = []
    cycle.append(cycle)
    assert find_secret([1, "a", b"b", ValueError("c"), Holder(cycle)]) is None


def test_key_in_log_record(watch):
    """A key in a log record is found, at any level."""
    logging.getLogger("asimov_sync.planted").debug("the headers are %s", {"x-api-key": KEY})
    assert watch.records
    assert [finding for finding in watch.take_findings() if "log record" in finding]


@pytest.mark.parametrize("place", ["name", "attribute", "event"])
def test_key_in_span(place, watch):
    """A key in the name, an attribute or an event of an ended span is found."""
    span = (
        TracerProvider(shutdown_on_exit=False)
        .get_tracer("planted")
        .start_span(KEY if place == "name" else "planted")
    )
    if place == "attribute":
        span.set_attribute("headers", ["x-api-key", KEY])
    if place == "event":
        span.add_event("sent", {"key": KEY})
    span.end()
    assert len([finding for finding in watch.take_findings() if "span" in finding]) == 1
