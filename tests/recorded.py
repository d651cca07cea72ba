"""Real traffic, recorded by other projects: read from beside the checkout, and never copied into it.

The folder is $ASIMOV_TEST_RECORDED, or ../shared/recorded. Where there is none, the tests that need it are skipped.
"""

import base64
import gzip
import json
import os
import pathlib
import re

import pytest

ABSENT = "the recorded traffic is not here: set ASIMOV_TEST_RECORDED to its folder"
FOLDER = pathlib.Path(
    os.environ.get("ASIMOV_TEST_RECORDED") or pathlib.Path(__file__).resolve().parents[2] / "shared" / "recorded"
)


class Record:
    """One recorded interaction. body: the response's bytes; headers: lower-case names."""

    def __init__(self, told):
        self.name = told["name"]
        self.notes = told["notes"]
        self.features = told["notes"].get("features", [])
        self.request = told["request"]
        self.url = told["request"]["url"] or ""
        self.status = told["response"]["status"]
        self.headers = {
            name.lower(): value if isinstance(value, str) else value[0]
            for name, value in (told["response"]["headers"] or {}).items()
        }
        self.body = base64.b64decode(told["response"]["body_b64"])

    def __repr__(self):
        return self.name


def recorded(*files):
    """The records of these files ("anthropic", "openai_reconstructed" …), as parameters whose ids are their names."""
    if not FOLDER.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT), id="absent")]
    found = []
    for name in files:
        with gzip.open(str(FOLDER / (name + ".jsonl.gz")), "rt", encoding="utf-8") as lines:
            found += [Record(json.loads(line)) for line in lines]
    return [pytest.param(record, id=record.name) for record in found]


CHUNKINGS = ["whole", "events", "splinters"]
SPLINTER = 7


def pieces(body, chunking):
    """The body in one piece, in pieces that end with an event, or in pieces of seven bytes, which end anywhere."""
    if chunking == "whole":
        return [body]
    if chunking == "events":
        return [piece for piece in re.split(rb"(?<=\n\n)|(?<=\n\r\n)", body) if piece]
    return [body[place : place + SPLINTER] for place in range(0, len(body), SPLINTER)]
