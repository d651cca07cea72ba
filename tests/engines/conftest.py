"""Leaves out the tests of engines that are not installed: `tox -e engines` has them."""

import importlib.util

NEEDED = {"test_celery.py": "celery", "test_rq.py": "rq", "test_celery_example.py": "celery"}
"""For each file of tests, the package that it needs."""

collect_ignore = [
    file for file, package in NEEDED.items() if importlib.util.find_spec(package) is None
]
