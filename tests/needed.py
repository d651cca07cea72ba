"""Packages that the extra `test` brings where they can be had: imported, or skipped by name, and in CI a failure."""

import importlib
import importlib.util
import os

import pytest


def needed(name):
    """The module of that name."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(name)


def needed_by_program(name):
    """Make sure of a module that only a program under test imports: what warns then is not this process."""
    if importlib.util.find_spec(name) is None:
        missing(name)


def missing(name):
    """Skip the test, or fail it in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)('there is no {}: pip install -e ".[test]"'.format(name))
