"""The page of runs in Django and Flask, and the server of `asimov-sync serve`."""

import contextlib
import http.client
import json
import os
import re
import socket
import threading

import pytest

from asimov_sync import (
    MemoryCache,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.web.local_server import LocalServer

from ..hosts.processes import run_module, start_module
from ..optional_packages import skip_unless_installed
from ..tiers import soak, suite
from ..waiting import DEADLINE, wait_for
from .test_runs_app import events_of


@soak
def test_a_view_of_django():
    """The page works below a path of Django's urls, with its own protection of forms, under both
    interfaces; under ASGI it holds no connection."""
    skip_unless_installed("django")
    report = json.loads(run_module("tests.web.django_runs").stdout)
    assert report["stranger"] == 403 and report["page"] == 200
    assert report["frames"] == "DENY"
    assert report["seen"][:2] == ["/ops/runs", "/runs/r"]
    assert report["forged"] in (403, 415)
    assert report["answer"] == [303, "/ops/runs/runs/r?done=answered"]
    assert report["result"] == "Ann"
    (status, page), (_, live) = report["asgi"]
    assert status == 200 and "/ops/runs/runs/r" in page
    assert [kind for kind, _ in events_of(live)[0]] == ["update"]
    assert [kind for kind, _ in events_of(report["live"])[0]] == ["update", "end"]


@pytest.fixture
def store():
    """A store in memory."""
    return RunStore(MemoryCache())


class Browser:
    """A browser of a LocalServer."""

    def __init__(self, server):
        self.server = server
        self.cookies = ""

    def open(self, path, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, dict({"Cookie": self.cookies}, **headers))
        return connection.getresponse()

    def enter(self):
        """Open the address of the server, as the person does who started it."""
        reply = self.open("/" + self.server.address.rpartition("/")[2])
        cookie = reply.getheader("Set-Cookie")
        assert reply.status == 303 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        self.cookies = cookie.partition(";")[0]
        assert reply.getheader("Location") == "/"
        return self


@suite
def test_the_local_server(store):
    """Only the browser that got the token sees the runs, and only under a name of this machine."""
    with LocalServer(store) as server:
        server.start()
        stranger, person = Browser(server), Browser(server).enter()
        port = server.port
        assert stranger.open("/").status == 403
        assert stranger.open("/?token=x").status == 403
        assert person.open("/").status == 200
        assert person.open("/", Host=f"localhost:{port}").status == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
            assert person.open("/", Host=host).status == 421
            token = server.address.rpartition("/")[2]
            assert person.open(f"/{token}", Host=host).status == 421


@suite
def test_a_run_is_followed(store):
    """A page receives what happens in a run, while other requests are answered; and its end."""
    entered, leave = threading.Event(), threading.Event()

    def work(task, context):
        context.report(0.5, "half of it")
        entered.set()
        assert leave.wait(DEADLINE)

    graph = TaskGraph()
    graph.add(Task(type="work"), name="first")
    graph.add(Task(type="quick"), name="second", depends_on=["first"])
    handlers = {"work": work, "quick": lambda task, context: "done"}
    with LocalServer(store) as server, TaskScheduler(handlers, runs=store) as scheduler:
        server.start()
        person = Browser(server).enter()
        run = scheduler.submit(graph, run_id="r")
        assert entered.wait(DEADLINE)
        wait_for(lambda: b"half of it" in person.open("/runs/r").read(), "the report in the page")
        live = person.open("/runs/r/live")
        seen = b""
        while b"half of it" not in seen:
            seen += live.read1(65536)
        assert "executing" in seen.decode()
        assert person.open("/").status == 200
        leave.set()
        run.result()
        text = (seen + live.read()).decode()
    events, _ = events_of(text)
    assert [kind for kind, _ in events][-1] == "end"
    last = [values for kind, values in events if kind == "update"][-1]
    assert "complete" in last["sections"]["head"] and last["sections"]["now"] == ""
    assert store.get("r").status is RunStatus.COMPLETE


@suite
def test_an_answer_is_seen_by_others(store):
    """A page that follows a parked run learns that somebody else has answered."""

    def build():
        graph = TaskGraph()
        graph.add(lambda task, context: context.wait_for("name"), name="sign")
        return graph

    with LocalServer(store, read_only=False, user="ann") as server:
        server.start()
        person = Browser(server).enter()
        with TaskScheduler(max_workers=0, runs=store) as scheduler:
            scheduler.run(build(), run_id="r")
            live = person.open("/runs/r/live")
            seen = b""
            while b"</form>" not in seen:
                seen += live.read1(65536)
            store.answer("r", "name", "Bob")
            scheduler.run(build(), run_id="r")
            assert b"event: end" in live.read()


@soak
def test_a_browser_that_leaves(store):
    """The thread of a connection ends when its browser has left."""

    def build():
        graph = TaskGraph()
        graph.add(lambda task, context: context.wait_for("name"), name="sign")
        return graph

    with LocalServer(store) as server, TaskScheduler(max_workers=0, runs=store) as scheduler:
        server.start()
        person = Browser(server).enter()
        scheduler.run(build(), run_id="r")
        before = set(threading.enumerate())
        live = person.open("/runs/r/live")
        live.read1(10)
        (thread,) = set(threading.enumerate()) - before
        live.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()


@suite
def test_the_page_in_flask():
    """The application works behind werkzeug's DispatcherMiddleware."""
    skip_unless_installed("flask")
    import flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    from asimov_sync.web import runs_app

    site = flask.Flask(__name__)
    app = runs_app(RunStore(MemoryCache()), authorize=lambda environ: "ann")
    site.wsgi_app = DispatcherMiddleware(site.wsgi_app, {"/ops": app})
    page = site.test_client().get("/ops/")
    assert page.status_code == 200 and 'action="/ops/"' in page.text
    assert re.search(r'data-poll="/ops/"', page.text)


@contextlib.contextmanager
def fetch(port, path):
    """The reply of a server on this machine, until the end of the block."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", path)
        with connection.getresponse() as reply:
            yield reply
    finally:
        connection.close()


@soak
@pytest.mark.parametrize("threads", [0, 4])
def test_the_page_under_gunicorn(tmp_path, threads):
    """One worker with threads holds the connection of a page; one without answers it at once, so
    that other requests are served."""
    skip_unless_installed("gunicorn")

    def build():
        graph = TaskGraph()
        graph.add(lambda task, context: context.wait_for("name"), name="sign")
        return graph

    path = tmp_path / "runs.db"
    with TaskScheduler(runs=RunStore(SQLiteCache(path, synchronous="normal"))) as scheduler:
        scheduler.run(build(), run_id="r")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        port = listener.getsockname()[1]
        arguments = ["--config=tests/hosts/gunicorn_settings.py", "--workers=1"]
        arguments += [f"--bind=fd://{listener.fileno()}"]
        arguments += [f"--threads={threads}"] if threads else []
        options = {
            "pass_fds": [listener.fileno()],
            "env": dict(os.environ, ASIMOV_TEST_RUNS=str(path)),
        }
        log = tmp_path / "gunicorn.log"
        with start_module(log, "gunicorn", "tests.web.runs_site:app", *arguments, **options):
            with fetch(port, "/runs/r") as page, fetch(port, "/runs/r/live") as live:
                assert page.status == 200
                seen = b""
                while b"event: update" not in seen:
                    seen += live.read1(65536)
                with fetch(port, "/") as other:
                    assert other.status == 200
                if not threads:
                    assert b"event: end" not in seen + live.read()
