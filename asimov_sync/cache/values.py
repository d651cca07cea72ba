"""Values on their way in and out: JSON text, and nothing but JSON. Nothing is ever unpickled."""

import datetime
import enum
import functools
import json
import uuid
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from asimov_sync._json import MAX_DEPTH, exceeds_max_depth, loads
from asimov_sync.errors import CacheValueError

__all__ = ["decoded", "encoded"]


def _plain(value: Any) -> Any:
    """What JSON has no word for, in the words that pydantic reads back."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError("{} is not JSON".format(type(value).__name__))


_encode = json.JSONEncoder(default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_adapter = functools.lru_cache(maxsize=256)(TypeAdapter)


def encoded(value: Any) -> bytes:
    """JSON text of a value; pydantic models, UUIDs, dates, times and enums are accepted beside what JSON knows."""
    try:
        text = _encode(value)
        if exceeds_max_depth(text):  # it could not be read again
            raise ValueError("it has more than {} levels".format(MAX_DEPTH))
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise CacheValueError(
            "{} cannot be stored: {}. Store what JSON can hold, or bytes with raw=True".format(type(value).__name__, error)
        ) from error


def decoded(key: str, data: bytes, type: Any = None) -> Any:
    """The value of JSON text, validated as `type` where one is given; `key` is named in the error."""
    try:
        if type is None:
            return loads(data.decode("utf-8"))
        return _adapter_of(type).validate_json(data)
    except ValidationError as error:
        raise CacheValueError("what is stored under {!r} is not a valid {!r}: {}".format(key, type, error)) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CacheValueError(
            "what is stored under {!r} is not JSON ({}); bytes are read with raw=True".format(key, error)
        ) from error


def _adapter_of(type: Any) -> "TypeAdapter[Any]":
    try:
        return _adapter(type)
    except TypeError:  # an unhashable annotation cannot be remembered
        return TypeAdapter(type)
