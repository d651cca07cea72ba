"""Values to and from JSON text. Nothing is ever unpickled."""

import datetime
import enum
import functools
import json
import uuid
from typing import Any, Optional

from pydantic import BaseModel, TypeAdapter, ValidationError

from asimov_sync._json import MAX_DEPTH, exceeds_max_depth, loads
from asimov_sync.errors import CacheValueError

__all__ = ["add_integers", "decode", "encode"]


def _to_json_type(value: Any) -> Any:
    """Convert a value that is not a JSON type to one that pydantic can read back."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} is not JSON")


_json_text = json.JSONEncoder(
    default=_to_json_type, allow_nan=False, ensure_ascii=False, separators=(",", ":")
).encode
_cached_adapter = functools.lru_cache(maxsize=256)(TypeAdapter)


def encode(value: Any, errors: str = "strict") -> bytes:
    """Return the JSON text of a value.

    errors: "backslashreplace" writes halves of surrogate pairs, which UTF-8 cannot encode, as
        escapes of JSON. By default they are refused, as `decode` may not read them.

    Accepts pydantic models, UUIDs, dates, times and enums, and the types of JSON. Raises
    CacheValueError for everything else.
    """
    try:
        text = _json_text(value)
        if exceeds_max_depth(text):  # reading it again would fail
            raise ValueError(f"it has more than {MAX_DEPTH} levels")
        return text.encode("utf-8", errors)
    except (TypeError, ValueError, RecursionError) as error:
        raise CacheValueError(
            f"{type(value).__name__} cannot be stored: {error}. "
            "Store what JSON can hold, or bytes with raw=True"
        ) from error


def decode(key: str, data: bytes, type: Any = None) -> Any:
    """Return the value of JSON text.

    key: the key or mailbox that the error names.
    type: validates the value, if given.

    Raises CacheValueError if the text is not JSON or not a valid `type`.
    """
    try:
        if type is None:
            return loads(data)
        return _adapter_for(type).validate_json(data)
    except ValidationError as error:
        raise CacheValueError(
            f"what is stored under {key!r} is not a valid {type!r}: {error}"
        ) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CacheValueError(
            f"what is stored under {key!r} is not JSON ({error}); bytes are read with raw=True"
        ) from error


def _adapter_for(type: Any) -> "TypeAdapter[Any]":
    try:
        return _cached_adapter(type)
    except TypeError:  # an unhashable annotation cannot be a key of the LRU cache
        return TypeAdapter(type)


def add_integers(stored: Optional[bytes], by: int) -> int:
    """Return the sum of a stored integer (None: absent, 0) and another one.

    Raises CacheValueError if it is not an integer, or the sum has more than 64 bits.
    """
    try:
        # As Redis reads it: digits and a minus; no blank, no plus, no leading zero.
        before = 0 if stored is None else int(stored)
        if stored is not None and str(before).encode() != stored:
            raise ValueError(stored)
    except ValueError:
        raise CacheValueError(
            "the stored value cannot be incremented, because it is not an integer"
        ) from None
    if not -(2**63) <= before + by < 2**63:
        raise CacheValueError("the sum is beyond 64 bits, and was not stored")
    return before + by
