"""AWS's event stream: binary messages of headers and a payload, with two check sums. Pure.

The format: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html and
https://smithy.io/2.0/aws/amazon-eventstream.html. Of its header types, only text (7) is written and read here.
"""

import struct
import zlib
from typing import Dict, List, Mapping, NamedTuple, Tuple

__all__ = ["Message", "decode", "encode"]

_PRELUDE = struct.Struct(">III")  # the length of the message, that of its headers, the check sum of these two
_SUM = struct.Struct(">I")
_TEXT = 7


class Message(NamedTuple):
    """One message: headers such as :message-type and :event-type, and a payload."""

    headers: Mapping[str, str]
    payload: bytes


def encode(message: Message) -> bytes:
    """A message as bytes."""
    headers = b"".join(_header(name, value) for name, value in message.headers.items())
    total = _PRELUDE.size + len(headers) + len(message.payload) + _SUM.size
    lengths = struct.pack(">II", total, len(headers))
    told = lengths + _SUM.pack(zlib.crc32(lengths)) + headers + message.payload
    return told + _SUM.pack(zlib.crc32(told))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode("utf-8"), value.encode("utf-8")
    return struct.pack(">B", len(key)) + key + struct.pack(">BH", _TEXT, len(text)) + text


def decode(data: bytes) -> Tuple[List[Message], bytes]:
    """The whole messages at the beginning of some bytes, and the rest. ValueError: a check sum is wrong."""
    messages = []
    while len(data) >= _PRELUDE.size:
        total, length, check = _PRELUDE.unpack_from(data)
        if zlib.crc32(data[: _PRELUDE.size - _SUM.size]) != check or total < _PRELUDE.size + length + _SUM.size:
            raise ValueError("the prelude of a message is not what its check sum says")
        if len(data) < total:
            break
        end = total - _SUM.size
        if zlib.crc32(data[:end]) != _SUM.unpack_from(data, end)[0]:
            raise ValueError("a message is not what its check sum says")
        payload = _PRELUDE.size + length
        messages.append(Message(_headers(data[_PRELUDE.size : payload]), data[payload:end]))
        data = data[total:]
    return messages, data


def _headers(data: bytes) -> Dict[str, str]:
    headers = {}
    while data:
        end = 1 + data[0]
        name = data[1:end].decode("utf-8")
        kind, length = struct.unpack_from(">BH", data, end)
        if kind != _TEXT:
            raise ValueError("the header {} is not text".format(name))
        start = end + 3
        headers[name] = data[start : start + length].decode("utf-8")
        data = data[start + length :]
    return headers
