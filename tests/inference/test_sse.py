"""The SSE parser: any bytes, in any pieces."""

import time

import hypothesis
import pytest
from hypothesis import strategies

from asimov_sync.inference.http.sse import SSEParser

STREAM = (
    '\ufeffevent: first\r\ndata: {"text": "\u2028é\U0001f600\u0085"}\r\n\r\n'
    ": a comment\n"
    "data:no space\ndata:  two spaces\nid: 7\nretry: 10\nunknown: x\nalone\n\n"
    "event: named, without data\n\n"
    "event: third\rdata: cr\r\r"
    "data\n\n"
    "data: no blank line"
).encode("utf-8")
EVENTS = [
    ("first", '{"text": "\u2028é\U0001f600\u0085"}'),
    ("message", "no space\n two spaces"),
    ("third", "cr"),
    ("message", ""),
    ("message", "no blank line"),
]


def parse(pieces):
    parser = SSEParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.finish()


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_any_piece_size(size):
    """The events are the same in pieces of any size."""
    assert parse(STREAM[start : start + size] for start in range(0, len(STREAM), size)) == EVENTS


@pytest.mark.parametrize("position", range(len(STREAM) + 1))
def test_any_split(position):
    """The events are the same wherever the stream is split in two."""
    assert parse([STREAM[:position], b"", STREAM[position:]]) == EVENTS


@hypothesis.given(strategies.data())
def test_any_bytes(data):
    """Any bytes are parsed without an error, and to the same events in any pieces."""
    stream = data.draw(
        strategies.lists(
            strategies.sampled_from([b"data:", b" ", b"x", b"\r", b"\n", b"\xff", b":", b"event"])
        )
    )
    whole = b"".join(stream)
    positions = sorted(data.draw(strategies.lists(strategies.integers(0, len(whole)), max_size=4)))
    pieces = [whole[start:end] for start, end in zip([0] + positions, positions + [len(whole)])]
    assert parse(pieces) == parse([whole])


def test_event_after_its_blank_line():
    """The piece with the blank line returns the event, also with CR as the line end."""
    for end in (b"\n", b"\r\n", b"\r"):
        parser = SSEParser()
        assert parser.feed(b"data: 1" + end) == []
        assert parser.feed(end) == [("message", "1")]
        assert parser.feed(b"data: 2" + end + end) == [("message", "2")]


def test_a_long_line_in_small_pieces_takes_linear_time():
    """A line of 20 MB in small pieces is joined once, at its end."""
    parser, piece = SSEParser(), b"x" * 10000
    start = time.thread_time()
    for _ in range(2000):
        assert parser.feed(piece) == []
    # To join it for each piece would copy 20 GB.
    assert time.thread_time() - start < 0.5
    assert parser.feed(b"\n") == []
    assert parser.finish() == []
