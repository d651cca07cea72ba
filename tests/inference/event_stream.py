"""Amazon's event stream framing, written from its description and without botocore, for tests to hold against it.

A frame: its length and its headers' length, 4 bytes each; a CRC of those; the headers (a name, a type, a value); the payload;
a CRC of all before it. https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html
"""

import base64
import json
import struct
import zlib

TEXT = 7  # a header's type


def frame(payload, **headers):
    """One frame; headers: their names with _ for -, without the colon that they begin with."""
    told = b""
    for name, value in headers.items():
        name, value = (":" + name.replace("_", "-")).encode(), value.encode()
        told += struct.pack(">B", len(name)) + name + struct.pack(">BH", TEXT, len(value)) + value
    head = struct.pack(">II", 12 + len(told) + len(payload) + 4, len(told))
    head += struct.pack(">I", zlib.crc32(head))
    whole = head + told + payload
    return whole + struct.pack(">I", zlib.crc32(whole))


def event(kind, payload):
    """An event's frame; payload: what JSON can hold."""
    return frame(json.dumps(payload).encode(), event_type=kind, content_type="application/json", message_type="event")


def chunk(message):
    """The frame of InvokeModel around an event of the Messages API."""
    return event("chunk", {"bytes": base64.b64encode(json.dumps(message).encode()).decode()})


def exception(kind, message):
    """The frame of an exception in a stream."""
    return frame(
        json.dumps({"message": message}).encode(),
        exception_type=kind,
        content_type="application/json",
        message_type="exception",
    )


def frames(data):
    """The frames that bytes consist of, as bytes."""
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        assert 16 <= length <= len(data) - place
        yield data[place : place + length]
        place += length


def read(data):
    """(headers, payload) of each frame that bytes consist of."""
    for one in frames(data):
        _, length, crc = struct.unpack_from(">III", one)
        assert crc == zlib.crc32(one[:8])
        assert struct.unpack(">I", one[-4:]) == (zlib.crc32(one[:-4]),)
        headers, place = {}, 12
        while place < 12 + length:
            size = one[place]
            name = one[place + 1 : place + 1 + size].decode()
            kind, bytes_ = struct.unpack_from(">BH", one, place + 1 + size)
            assert kind == TEXT
            place += 4 + size
            headers[name] = one[place : place + bytes_].decode()
            place += bytes_
        yield headers, one[place:-4]


def messages(data):
    """The events of the Messages API that a stream of InvokeModel holds."""
    for headers, payload in read(data):
        if headers.get(":event-type") == "chunk":
            yield json.loads(base64.b64decode(json.loads(payload)["bytes"]))
