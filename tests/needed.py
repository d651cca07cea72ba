"""Packages that the extra `test` brings where they can be had: imported, or skipped by name, and in CI a failure."""

import importlib
import os

import pytest


def needed(name):
    """The module of that name."""
    try:
        return importlib.import_module(name)
    except ImportError:
        (pytest.fail if os.environ.get("CI") else pytest.skip)('there is no {}: pip install -e ".[test]"'.format(name))
