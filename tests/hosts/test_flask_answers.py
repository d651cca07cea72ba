"""A Flask application answers and approves the runs of other processes, from the store alone."""

import contextlib
import json
import os
import threading
import urllib.error
import urllib.request

import pytest

from asimov_sync import (
    Agent,
    RunParked,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
    ToolCall,
    tool,
)
from asimov_sync.testing import ScriptedInferenceClient, tool_results

from ..optional_packages import import_or_skip
from ..runs.drivers import Driver
from ..tiers import suite
from ..waiting import DEADLINE

pytestmark = [
    suite,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
]

RUN_ID = "invoice-1"


def respond(body):
    """A model that pays, and then tells what the tool returned."""
    results = tool_results(body)
    if not results:
        return [ToolCall(id="call-1", name="pay", arguments={"amount": 7})]
    return f"The tool says: {results['pay']}"


def drive(path, paid, resume):
    """Run the flow, or resume it, as a script does. Return what waits, and the results."""

    @tool(requires_approval=True)
    def pay(amount: int) -> str:
        """Pay an amount."""
        with open(paid, "a") as file:
            file.write(f"{amount}\n")
        return f"paid {amount}"

    with SQLiteCache(path, synchronous="normal") as cache:
        store = RunStore(cache)
        with TaskScheduler(max_workers=2, runs=store) as scheduler:
            client = ScriptedInferenceClient(respond)
            scheduler.handler("agent")(Agent(client, tools=[pay]))

            @scheduler.handler("ask")
            def ask(task, context):
                return context.wait_for("reviewer", prompt="Who reviews it?", type=str)

            @scheduler.flow("invoice")
            def invoice(number):
                graph = TaskGraph()
                graph.add(Task(type="ask"), name="ask")
                pays = Task(type="agent", objective=f"Pay invoice {number}.")
                graph.add(pays, name="pay", depends_on="ask")
                return graph

            if resume:
                result = scheduler.resume(RUN_ID)
            else:
                result = scheduler.run("invoice", args={"number": 1}, run_id=RUN_ID)
            with contextlib.suppress(RunParked):
                result.raise_for_failure()
            return [dict(result.waiting), dict(result.results)]


def make_app(flask, path):
    """Return an application that knows the store, and neither graphs nor handlers."""
    app = flask.Flask(__name__)
    store = RunStore(SQLiteCache(path, synchronous="normal"))

    @app.route("/waits")
    def waits():
        return flask.jsonify([wait.to_dict() for wait in store.waits()])

    @app.route("/runs/<run_id>/answers/<wait>", methods=["POST"])
    def answer(run_id, wait):
        try:
            return flask.jsonify(store.answer(run_id, wait, flask.request.get_json(), by="ann"))
        except ValueError as error:
            return flask.jsonify(str(error)), 400

    @app.route("/runs/<run_id>/approvals/<call>", methods=["POST"])
    def approve(run_id, call):
        return flask.jsonify(store.approve(run_id, {call: flask.request.get_json()}, by="ann"))

    @app.route("/ready")
    def ready():
        return flask.jsonify([record.run_id for record in store.ready()])

    return app


@contextlib.contextmanager
def serve(path):
    """Serve the application. Yields a function that sends a request and returns the reply."""
    serving = import_or_skip("werkzeug.serving")
    app = make_app(import_or_skip("flask"), path)
    server = serving.make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()

    def call(place, value=None):
        url = f"http://127.0.0.1:{server.server_port}/{place}"
        data = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            return json.loads(response.read().decode())

    try:
        yield call
    finally:
        server.shutdown()
        thread.join(DEADLINE)
        server.server_close()


def test_a_view_answers_and_approves_a_parked_run(tmp_path):
    """A script parks and exits, a view answers, and another script continues the run; twice."""
    path, paid = str(tmp_path / "runs.db"), str(tmp_path / "paid")
    assert Driver(drive, path, paid, False).result() == [{"ask": ["reviewer"]}, {}]

    with serve(path) as call:
        assert call("ready") == []
        (wait,) = call("waits")
        assert [wait["run_id"], wait["task"], wait["name"]] == [RUN_ID, "ask", "reviewer"]
        assert wait["prompt"] == "Who reviews it?"
        with pytest.raises(urllib.error.HTTPError, match="400"):
            call(f"runs/{RUN_ID}/answers/reviewer", 5)
        assert call(f"runs/{RUN_ID}/answers/reviewer", "Bob") is True
        assert call(f"runs/{RUN_ID}/answers/reviewer", "Eve") is False
        assert call("ready") == [RUN_ID]
    assert Driver(drive, path, paid, True).result() == [{"pay": ["call-1"]}, {"ask": "Bob"}]
    assert not os.path.exists(paid)

    with serve(path) as call:
        (wait,) = call("waits")
        assert wait["call"]["name"] == "pay" and wait["call"]["arguments"] == {"amount": 7}
        assert call(f"runs/{RUN_ID}/approvals/call-1", True) is True
        assert call(f"runs/{RUN_ID}/approvals/call-1", False) is False
        assert call("ready") == [RUN_ID]
    waiting, results = Driver(drive, path, paid, True).result()
    assert waiting == {} and results["ask"] == "Bob" and "paid 7" in results["pay"]
    with open(paid) as file:
        assert file.read() == "7\n"
    with SQLiteCache(path) as cache:
        assert RunStore(cache).get(RUN_ID).status == "complete"
