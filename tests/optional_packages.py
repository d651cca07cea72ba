"""Optional packages of the extra `test`. A test without its package is skipped; in CI it fails."""

import importlib
import importlib.util
import os

import pytest


def import_or_skip(name):
    """Import and return a module, or skip the test."""
    try:
        return importlib.import_module(name)
    except ImportError:
        skip_or_fail(name)


def skip_unless_installed(name):
    """Skip the test if a module is missing. Does not import it: only a subprocess needs it."""
    if importlib.util.find_spec(name) is None:
        skip_or_fail(name)


def skip_or_fail(name):
    """Skip the test, or fail it in CI."""
    report = pytest.fail if os.environ.get("CI") else pytest.skip
    report(f'{name} is not installed: pip install -e ".[test]"')
