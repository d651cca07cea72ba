"""gunicorn --preload: the workers go on with a scheduler whose threads are in the master alone."""

import concurrent.futures
import http.client
import json
import socket
import time

import pytest

from ..needed import needed_by_program
from ..tiers import suite
from ..waiting import DEADLINE
from .processes import going_on

pytestmark = suite

REQUESTS = 500


def ask(port, number):
    """What the view answers about a number."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", "/{}".format(number))
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return json.loads(body.decode("utf-8"))
    finally:
        connection.close()


def expected(number):
    """The results of the view's graph, reckoned here."""
    told = {"power[{}]".format(place): number ** (place + 1) for place in range(5)}
    told["total"] = number + sum(told.values())
    told["start"] = number
    told["inside"] = {"start": number + 1, "power[0]": (number + 1) ** 5, "power[1]": (number + 1) ** 6}
    return told


@pytest.mark.parametrize(
    "workers", [["--worker-class=sync"], ["--worker-class=gthread", "--threads=4"]], ids=["sync", "gthread"]
)
def test_a_view_behind_preload(workers, tmp_path):
    """Each of many requests at once gets its own graph's results, and its callback, from both workers; SIGTERM ends them."""
    needed_by_program("flask")
    needed_by_program("gunicorn")
    log = tmp_path / "log"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        port, number = listener.getsockname()[1], listener.fileno()
        arguments = ["--config=tests/hosts/gunicorn_settings.py", "--bind=fd://{}".format(number)] + workers
        with going_on(log, "gunicorn", "tests.hosts.flask_app:app", *arguments, pass_fds=[number]) as master:
            try:
                pids = set()
                with concurrent.futures.ThreadPoolExecutor(16) as clients:
                    for asked, told in enumerate(clients.map(lambda number: ask(port, number), range(REQUESTS))):
                        pids.add(told.pop("pid"))
                        assert told == {"errors": {}, "results": expected(asked), "told": True}
                assert asked == REQUESTS - 1
                assert len(pids) == 2 and master.pid not in pids
                start = time.monotonic()
                master.terminate()
                assert master.wait(DEADLINE) == 0
                assert time.monotonic() - start < 5
            except BaseException:
                print(log.read_text(encoding="utf-8"))
                raise
    assert "Traceback" not in log.read_text(encoding="utf-8")
