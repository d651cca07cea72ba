"""An EventSource of Chromium that follows a durable run: it gets every event once, and stops."""

import itertools
import threading

import flask
import pytest
from werkzeug.serving import make_server

from asimov_sync import MemoryCache, RunStore, Task, TaskGraph, TaskScheduler
from asimov_sync.web import follow, read_last_event_id, sse
from asimov_sync.web.flask import stream_response

from ..tiers import soak

pytestmark = soak

PAGE = """<!doctype html><link rel="icon" href="data:,"><ol></ol><p></p><script>
const source = new EventSource("/events");
const list = document.querySelector("ol");
const show = event => list.append(Object.assign(document.createElement("li"), {
  textContent: `${event.lastEventId} ${JSON.parse(event.data).type}`,
}));
for (const type of ["run_started", "task_started", "task_finished", "run_finished"])
  source.addEventListener(type, show);
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) document.querySelector("p").textContent = "over";
};
</script>"""


@pytest.fixture
def site():
    """A site with a stored run of 20 tasks, whose first connections are lost after some events.

    `requests` has the header Last-Event-ID of each request.
    """
    app, requests = flask.Flask(__name__), []
    graph = TaskGraph()
    graph.map(Task(type="work"), range(20), name="work")
    store = RunStore(MemoryCache())
    with TaskScheduler({"work": lambda task, context: 1}, runs=store) as scheduler:
        scheduler.run(graph, run_id="r")

    @app.get("/")
    def page():
        return PAGE

    @app.get("/events")
    def events():
        requests.append(flask.request.headers.get("Last-Event-ID"))
        log = follow(store, "r", read_last_event_id(requests[-1]))
        cut = None if log is None or len(requests) > 2 else itertools.islice(log, 15)
        return stream_response(None if log is None else sse(cut or log))

    listener = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}/", requests
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_lost_connections_and_the_end(site, open_page):
    """After each loss the browser gets the events that it missed, and after the last one a 204, at
    which it stops."""
    address, requests = site
    page = open_page(address)
    page.wait_for_selector("text=over", timeout=60_000)
    shown = [item.split() for item in page.locator("li").all_inner_texts()]
    numbers = [int(number) for number, _ in shown]
    assert numbers == sorted(set(numbers)) and len(numbers) == 42
    assert shown[0][1] == "run_started" and shown[-1][1] == "run_finished"
    assert requests == [None, str(numbers[14]), str(numbers[29]), str(numbers[-1])]
    page.wait_for_timeout(5000)  # an EventSource reconnects after three seconds
    assert len(requests) == 4
