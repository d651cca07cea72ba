"""Codec of AWS's event stream: binary messages of headers and a payload, with two checksums. Pure.

The format: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html and
https://smithy.io/2.0/aws/amazon-eventstream.html. Only headers of type string (7) are supported.
"""

import struct
import zlib
from typing import Dict, List, Mapping, NamedTuple, Tuple

__all__ = ["Message", "decode", "encode"]

_PRELUDE = struct.Struct(">III")  # message length, headers length, CRC of both
_CHECKSUM = struct.Struct(">I")
_STRING = 7


class Message(NamedTuple):
    """One message: headers such as :message-type and :event-type, and a payload."""

    headers: Mapping[str, str]
    payload: bytes


def encode(message: Message) -> bytes:
    """Encode a message."""
    headers = b"".join(_encode_header(name, value) for name, value in message.headers.items())
    total = _PRELUDE.size + len(headers) + len(message.payload) + _CHECKSUM.size
    lengths = struct.pack(">II", total, len(headers))
    data = lengths + _CHECKSUM.pack(zlib.crc32(lengths)) + headers + message.payload
    return data + _CHECKSUM.pack(zlib.crc32(data))


def _encode_header(name: str, value: str) -> bytes:
    key, text = name.encode("utf-8"), value.encode("utf-8")
    return struct.pack(">B", len(key)) + key + struct.pack(">BH", _STRING, len(text)) + text


def decode(data: bytes) -> Tuple[List[Message], bytes]:
    """Decode the complete messages at the start of `data`.

    Returns the messages and the bytes after them. Raises ValueError if a checksum is wrong.
    """
    messages = []
    while len(data) >= _PRELUDE.size:
        total, headers_length, checksum = _PRELUDE.unpack_from(data)
        prelude = data[: _PRELUDE.size - _CHECKSUM.size]
        minimum = _PRELUDE.size + headers_length + _CHECKSUM.size
        if zlib.crc32(prelude) != checksum or total < minimum:
            raise ValueError("invalid prelude: its checksum or its lengths are wrong")
        if len(data) < total:
            break
        end = total - _CHECKSUM.size
        if zlib.crc32(data[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
            raise ValueError("invalid message: its checksum is wrong")
        payload = _PRELUDE.size + headers_length
        headers = _decode_headers(data[_PRELUDE.size : payload])
        messages.append(Message(headers, data[payload:end]))
        data = data[total:]
    return messages, data


def _decode_headers(data: bytes) -> Dict[str, str]:
    headers = {}
    while data:
        end = 1 + data[0]
        name = data[1:end].decode("utf-8")
        kind, length = struct.unpack_from(">BH", data, end)
        if kind != _STRING:
            raise ValueError(f"header {name} is not a string")
        start = end + 3
        headers[name] = data[start : start + length].decode("utf-8")
        data = data[start + length :]
    return headers
