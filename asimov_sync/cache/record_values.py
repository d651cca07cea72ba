"""Conversions of the parts of a record to what the backends store, and back."""

import hashlib
import json
from typing import Dict, Mapping

from asimov_sync._json import loads
from asimov_sync.cache.records import RecordChange

__all__ = ["decode_tags", "encode_tags", "identify_commit", "to_duration_ms", "to_moment_ms"]


def to_duration_ms(seconds: float) -> int:
    """Return a lease or a time to live in milliseconds, at least 1."""
    return max(1, int(seconds * 1000))


def to_moment_ms(moment: float) -> int:
    """Return a moment in milliseconds since the epoch."""
    return round(moment * 1000)


def encode_tags(tags: Mapping[str, str]) -> str:
    """Return a line for each tag. A line differs from those of all other tags."""
    return "\n".join(json.dumps(tag) for tag in tags.items())


def decode_tags(lines: str) -> Dict[str, str]:
    """Return the tags of these lines."""
    return dict(loads(line) for line in lines.split("\n") if line)


def identify_commit(owner: str, epoch: int, change: RecordChange) -> str:
    """Return text that is the same for the repetition of a commit, and for no other commit."""
    content = repr((owner, epoch, sorted(change.fields.items()), change._replace(fields={})))
    return hashlib.sha256(content.encode("utf-8")).hexdigest()
