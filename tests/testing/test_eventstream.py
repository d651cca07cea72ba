"""The codec of AWS's event stream agrees with botocore's and with recorded streams."""

import pytest
from botocore.eventstream import EventStreamBuffer

from asimov_sync.testing.wires.eventstream import Message, decode, encode

from ..recorded import load_records

STREAMS = ("bedrock_invoke", "bedrock_converse")
MESSAGES = [
    Message({}, b""),
    Message({":message-type": "event", ":event-type": "chunk"}, b'{"bytes":"YQ=="}'),
    Message({":message-type": "exception", "näme": "wörd " * 100}, bytes(range(256)) * 40),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: str(len(message.payload)))
def test_botocore_decodes(message):
    """botocore's parser, which checks both checksums, finds the headers and the payload."""
    buffer = EventStreamBuffer()
    buffer.add_data(encode(message))
    (found,) = list(buffer)
    assert (found.headers, found.payload) == (message.headers, message.payload)


def test_decode_pieces():
    """Complete messages are decoded; the bytes of an incomplete one are returned as the rest."""
    data = b"".join(encode(message) for message in MESSAGES)
    for cut in range(len(data) + 1):
        first, rest = decode(data[:cut])
        second, remainder = decode(rest + data[cut:])
        assert first + second == MESSAGES
        assert remainder == b""


@pytest.mark.parametrize("position", [0, 9, 13, 60, -1])
def test_corrupt_byte(position):
    """A corrupt byte is a ValueError, at any position."""
    data = bytearray(encode(MESSAGES[1]))
    data[position] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        decode(bytes(data))


@pytest.mark.parametrize("record", load_records(*STREAMS))
def test_recorded_streams(record):
    """Every recorded stream is decoded, and encoded again byte for byte."""
    if not any(feature.startswith("es:") for feature in record.features):
        assert "streaming" not in record.features
        return
    messages, rest = decode(record.body)
    assert messages
    assert rest == b""
    assert b"".join(encode(message) for message in messages) == record.body
