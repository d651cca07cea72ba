"""Tests against engines that are installed by `tox -e engines` only."""

import importlib.util

if importlib.util.find_spec("loky") is None:
    collect_ignore_glob = ["test_*.py"]
