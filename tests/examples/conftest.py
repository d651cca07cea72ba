"""Input files of the examples, and examples that run in the background."""

import os
import subprocess

import pytest

from .programs import BEES, TRAINS, command


@pytest.fixture
def bees(tmp_path):
    path = tmp_path / "bees.txt"
    path.write_text(BEES, encoding="utf-8")
    return path


@pytest.fixture
def trains(tmp_path):
    path = tmp_path / "trains.txt"
    path.write_text(TRAINS, encoding="utf-8")
    return path


@pytest.fixture
def start_example():
    """Start an example in the background; kill it after the test."""
    started = []

    def begin(*arguments):
        process = subprocess.Popen(
            command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ),
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
