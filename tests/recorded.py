"""Traffic of real providers, recorded by other projects.

It is read from a folder and never copied into this repository. The folder is $ASIMOV_TEST_RECORDED,
or ../shared/recorded. Without it, the tests that need it are skipped.
"""

import base64
import gzip
import json
import os
import pathlib
import re

import pytest

from .tiers import soak

MISSING = "the recorded traffic is not here: set ASIMOV_TEST_RECORDED to its folder"
DEFAULT_FOLDER = pathlib.Path(__file__).resolve().parents[2] / "shared" / "recorded"
FOLDER = pathlib.Path(os.environ.get("ASIMOV_TEST_RECORDED") or DEFAULT_FOLDER)


class Record:
    """One recorded request and response.

    headers: the response's headers, with lower-case names.
    body: the bytes of the response.
    """

    def __init__(self, data):
        self.name = data["name"]
        self.notes = data["notes"]
        self.features = data["notes"].get("features", [])
        self.request = data["request"]
        self.url = data["request"]["url"] or ""
        self.status = data["response"]["status"]
        self.headers = {
            name.lower(): value if isinstance(value, str) else value[0]
            for name, value in (data["response"]["headers"] or {}).items()
        }
        self.body = base64.b64decode(data["response"]["body_b64"])

    def __repr__(self):
        return self.name


def load_records(*files):
    """Return the records of some files as pytest parameters, with their names as ids.

    files: names without the extension, such as "anthropic" or "openai_reconstructed".
    """
    if not FOLDER.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason=MISSING), id="absent")]
    records = []
    for name in files:
        with gzip.open(str(FOLDER / f"{name}.jsonl.gz"), "rt", encoding="utf-8") as lines:
            records += [Record(json.loads(line)) for line in lines]
    return [pytest.param(record, id=record.name) for record in records]


CHUNKINGS = ["whole", pytest.param("events", marks=soak), "fixed"]
"""Ways to split a body into pieces."""

CHUNK_SIZE = 7
"""The number of bytes of each piece of the chunking "fixed"."""


def split_body(body, chunking):
    """Split a body: not at all, after each event, or into pieces of a fixed size."""
    if chunking == "whole":
        return [body]
    if chunking == "events":
        return [piece for piece in re.split(rb"(?<=\n\n)|(?<=\n\r\n)", body) if piece]
    return [body[start : start + CHUNK_SIZE] for start in range(0, len(body), CHUNK_SIZE)]
