"""Django: handlers that use the ORM, in a site, in a test case, and in async views."""

import json

import pytest

from ..optional_packages import skip_unless_installed
from ..tiers import suite
from .processes import run_module

pytestmark = suite


@pytest.fixture
def database(tmp_path):
    skip_unless_installed("django")
    return str(tmp_path / "site.sqlite3")


@pytest.mark.parametrize("closing", [False, True], ids=["no middleware", "middleware"])
def test_view_with_orm(closing, database):
    """Each request reads the rows that its tasks wrote. A middleware can close the connections."""
    report = json.loads(
        run_module("tests.hosts.django_site", database, *(["closing"] if closing else [])).stdout
    )
    assert report["answers"] == [{"errors": {}, "notes": ["note 1", "note 2", "note 3"]}] * 40
    assert report["opened by workers"] > 0
    assert (report["open"] == 0) is closing


def test_testcase(database):
    """With max_workers=0, and only then, handlers see the uncommitted rows of a TestCase."""
    assert "Ran 4 tests" in run_module("tests.hosts.django_testcase", database).stderr


def test_async_views(database):
    """Async views under an ASGI server await a run, iterate over its events, and stream text."""
    skip_unless_installed("uvicorn")
    report = json.loads(run_module("tests.hosts.django_async_site", database).stdout)
    assert report["run"] == [{"errors": {}, "notes": ["note 1", "note 2", "note 3"]}] * 40
    assert report["events"]["last"] == "run_finished" and report["events"]["count"] == 10
    assert report["text"] == "one two three four"
    assert report["blocking"] == {"notes": ["note 1", "note 2", "note 3"]}
