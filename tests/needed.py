"""Optional packages of the extra `test`. A test without its package is skipped; in CI it fails."""

import importlib
import importlib.util
import os

import pytest


def needed(name):
    """Import and return a module, or skip the test."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(name)


def needed_by_program(name):
    """Skip the test if a module is missing. Does not import it: only a subprocess needs it."""
    if importlib.util.find_spec(name) is None:
        missing(name)


def missing(name):
    """Skip the test, or fail it in CI."""
    report = pytest.fail if os.environ.get("CI") else pytest.skip
    report(f'{name} is not installed: pip install -e ".[test]"')
