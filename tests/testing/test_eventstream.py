"""AWS's binary messages: written as botocore reads them, and read back."""

import pytest
from botocore.eventstream import EventStreamBuffer

from asimov_sync.testing.wires.eventstream import Message, decode, encode

from ..recorded import recorded

STREAMS = ("bedrock_invoke", "bedrock_converse")
MESSAGES = [
    Message({}, b""),
    Message({":message-type": "event", ":event-type": "chunk"}, b'{"bytes":"YQ=="}'),
    Message({":message-type": "exception", "näme": "wörd " * 100}, bytes(range(256)) * 40),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: str(len(message.payload)))
def test_botocore_reads_what_is_written(message):
    """Botocore's own parser, which checks both sums, finds the headers and the payload."""
    buffer = EventStreamBuffer()
    buffer.add_data(encode(message))
    (found,) = list(buffer)
    assert (found.headers, found.payload) == (message.headers, message.payload)


def test_messages_are_read_from_any_pieces():
    """What is read is the whole messages; the rest waits for its other bytes."""
    data = b"".join(encode(message) for message in MESSAGES)
    for cut in range(len(data) + 1):
        first, rest = decode(data[:cut])
        second, nothing = decode(rest + data[cut:])
        assert first + second == MESSAGES
        assert nothing == b""


@pytest.mark.parametrize("place", [0, 9, 13, 60, -1])
def test_a_wrong_byte_is_found(place):
    """A byte that is not what it was, wherever it is, is a ValueError."""
    data = bytearray(encode(MESSAGES[1]))
    data[place] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        decode(bytes(data))


@pytest.mark.parametrize("record", recorded(*STREAMS))
def test_recorded_streams_are_read_and_written(record):
    """Every recorded stream is read, and written again byte for byte."""
    if not any(feature.startswith("es:") for feature in record.features):
        assert "streaming" not in record.features
        return
    messages, rest = decode(record.body)
    assert messages
    assert rest == b""
    assert b"".join(encode(message) for message in messages) == record.body
