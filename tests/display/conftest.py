"""Tests that need a package which the extra `test` does not have are collected only beside it."""

import importlib.util

if importlib.util.find_spec("tqdm") is None:
    collect_ignore = ["test_progress_bar.py"]  # `tox -e progress` has it
