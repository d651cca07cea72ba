"""Amazon's event stream framing, written from its description and without botocore.

A frame: its length and its headers' length, 4 bytes each; a CRC of those; the headers (a name, a
type, a value); the payload; a CRC of everything before it.
https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html
"""

import base64
import json
import struct
import zlib

TEXT = 7  # a header's type


def frame(payload, **headers):
    """Return a frame. headers: names with _ for -, without the leading colon."""
    encoded = b""
    for name, value in headers.items():
        name, value = (":" + name.replace("_", "-")).encode(), value.encode()
        encoded += (
            struct.pack(">B", len(name)) + name + struct.pack(">BH", TEXT, len(value)) + value
        )
    head = struct.pack(">II", 12 + len(encoded) + len(payload) + 4, len(encoded))
    head += struct.pack(">I", zlib.crc32(head))
    data = head + encoded + payload
    return data + struct.pack(">I", zlib.crc32(data))


def event(kind, payload):
    """Return the frame of an event. payload: a JSON value."""
    return frame(
        json.dumps(payload).encode(),
        event_type=kind,
        content_type="application/json",
        message_type="event",
    )


def chunk(message):
    """Return InvokeModel's frame around an event of the Messages API."""
    return event("chunk", {"bytes": base64.b64encode(json.dumps(message).encode()).decode()})


def exception(kind, message):
    """Return the frame of an exception."""
    return frame(
        json.dumps({"message": message}).encode(),
        exception_type=kind,
        content_type="application/json",
        message_type="exception",
    )


def frames(data):
    """Split bytes into frames."""
    offset = 0
    while offset < len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        assert 16 <= length <= len(data) - offset
        yield data[offset : offset + length]
        offset += length


def read(data):
    """Yield (headers, payload) of each frame in bytes."""
    for one_frame in frames(data):
        _, length, crc = struct.unpack_from(">III", one_frame)
        assert crc == zlib.crc32(one_frame[:8])
        assert struct.unpack(">I", one_frame[-4:]) == (zlib.crc32(one_frame[:-4]),)
        headers, offset = {}, 12
        while offset < 12 + length:
            size = one_frame[offset]
            name = one_frame[offset + 1 : offset + 1 + size].decode()
            kind, length_of_value = struct.unpack_from(">BH", one_frame, offset + 1 + size)
            assert kind == TEXT
            offset += 4 + size
            headers[name] = one_frame[offset : offset + length_of_value].decode()
            offset += length_of_value
        yield headers, one_frame[offset:-4]


def messages(data):
    """Yield the events of the Messages API in a stream of InvokeModel."""
    for headers, payload in read(data):
        if headers.get(":event-type") == "chunk":
            yield json.loads(base64.b64decode(json.loads(payload)["bytes"]))
