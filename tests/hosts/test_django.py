"""Django: handlers that use the ORM, in a threaded site and in a test case that owns a transaction; and async views."""

import json

import pytest

from ..needed import needed_by_program
from ..tiers import suite
from .processes import finished

pytestmark = suite


@pytest.fixture
def database(tmp_path):
    needed_by_program("django")
    return str(tmp_path / "site.sqlite3")


@pytest.mark.parametrize("closing", [False, True], ids=["no middleware", "middleware"])
def test_a_view_whose_handlers_use_the_orm(closing, database):
    """Every request reads what its own tasks wrote; and a middleware can see to it that no worker leaves a connection open."""
    told = json.loads(finished("tests.hosts.django_site", database, *(["closing"] if closing else [])).stdout)
    assert told["answers"] == [{"errors": {}, "notes": ["note 1", "note 2", "note 3"]}] * 40
    assert told["opened by workers"] > 0
    assert (told["open"] == 0) is closing


def test_a_test_case(database):
    """With max_workers=0 handlers and tools see the uncommitted rows of a TestCase; on threads they do not."""
    assert "Ran 4 tests" in finished("tests.hosts.django_testcase", database).stderr


def test_async_views(database):
    """Under a real ASGI server, async views await a run whose handlers use the ORM, iterate over its events, and stream."""
    needed_by_program("uvicorn")
    told = json.loads(finished("tests.hosts.django_async", database).stdout)
    assert told["run"] == [{"errors": {}, "notes": ["note 1", "note 2", "note 3"]}] * 40
    assert told["events"]["last"] == "run_finished" and told["events"]["count"] == 9
    assert told["text"] == "one two three four"
    assert told["blocking"] == {"notes": ["note 1", "note 2", "note 3"]}
