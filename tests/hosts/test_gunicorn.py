"""gunicorn --preload: forked workers use a scheduler whose threads exist only in the master."""

import concurrent.futures
import http.client
import json
import socket
import time

import pytest

from ..optional_packages import skip_unless_installed
from ..tiers import suite
from ..waiting import DEADLINE
from .processes import start_module

pytestmark = suite

REQUESTS = 500


def ask(port, number):
    """Return the view's answer for a number."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", f"/{number}")
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return json.loads(body.decode("utf-8"))
    finally:
        connection.close()


def expected(number):
    """Return the expected results of the view's graph."""
    results = {f"power[{index}]": number ** (index + 1) for index in range(5)}
    results["total"] = number + sum(results.values())
    results["start"] = number
    results["inside"] = {
        "start": number + 1,
        "power[0]": (number + 1) ** 5,
        "power[1]": (number + 1) ** 6,
    }
    return results


@pytest.mark.parametrize(
    "workers",
    [["--worker-class=sync"], ["--worker-class=gthread", "--threads=4"]],
    ids=["sync", "gthread"],
)
def test_view_behind_preload(workers, tmp_path):
    """Both workers answer every request correctly and call the callback; SIGTERM ends them."""
    skip_unless_installed("flask")
    skip_unless_installed("gunicorn")
    log = tmp_path / "log"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        port, descriptor = listener.getsockname()[1], listener.fileno()
        arguments = [
            "--config=tests/hosts/gunicorn_settings.py",
            f"--bind=fd://{descriptor}",
        ] + workers
        with start_module(
            log, "gunicorn", "tests.hosts.flask_app:app", *arguments, pass_fds=[descriptor]
        ) as master:
            try:
                pids = set()
                with concurrent.futures.ThreadPoolExecutor(16) as clients:
                    for number, answer in enumerate(
                        clients.map(lambda number: ask(port, number), range(REQUESTS))
                    ):
                        pids.add(answer.pop("pid"))
                        assert answer == {
                            "errors": {},
                            "results": expected(number),
                            "reported": True,
                        }
                assert number == REQUESTS - 1
                assert len(pids) == 2 and master.pid not in pids
                start = time.monotonic()
                master.terminate()
                assert master.wait(DEADLINE) == 0
                assert time.monotonic() - start < 5
            except BaseException:
                print(log.read_text(encoding="utf-8"))
                raise
    assert "Traceback" not in log.read_text(encoding="utf-8")
