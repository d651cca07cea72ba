"""Django: the same views under WSGI and ASGI."""

import json

from ..hosts.processes import run_module
from ..optional_packages import skip_unless_installed
from ..tiers import suite


@suite
def test_views_that_stream():
    """The text arrives under both interfaces; a browser that leaves during a silence closes the
    provider's stream."""
    skip_unless_installed("django")
    report = json.loads(run_module("tests.web.django_check").stdout)
    status, body = report["wsgi"]
    assert status == 200 and body.count("event: text_delta") == 3
    assert report["headers"]["Content-Type"] == "text/event-stream"
    assert report["headers"]["X-Accel-Buffering"] == "no"
    assert report["nothing"] == 204 and report["wsgi left"]
    assert report["async under WSGI"].startswith("WSGI cannot stream async events")
    for view in ("blocking", "awaiting", "of_a_thread"):
        if view in report:  # Django 4.2 and newer
            status, body = report[view]
            assert status == 200 and body.count("event: text_delta") == 3
            assert report[f"{view} left"]
