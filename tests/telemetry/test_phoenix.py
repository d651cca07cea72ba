"""Arize Phoenix receives a run over OTLP, and shows its tree, kinds, values, tokens and costs.

Collected only where Phoenix is installed (`tox -e phoenix`): it is large.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
import requests

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    Task,
    TaskGraph,
    TaskScheduler,
    telemetry,
    tool,
)
from asimov_sync.telemetry import CAPTURE_CONTENT
from asimov_sync.testing import ModelServer, calls, tool_results

from ..waiting import wait_for

PROJECT = "survey"
MODEL = "claude-haiku-4-5"
"""A model of Phoenix's own price list, by which it computes costs."""

GET_PRICES = """
{ generativeModels(first: 1000) { edges { node {
    name tokenPrices { tokenType costPerMillionTokens }
} } } }
"""
GET_SPANS = """
{ projects { edges { node { name
    sessions(first: 10) { edges { node { sessionId } } }
    spans(first: 100) { edges { node {
        name spanKind statusCode spanId parentId tokenCountTotal
        input { value } output { value } costSummary { total { cost } }
    } } }
} } } }
"""


def free_ports():
    """Return two ports that are free now."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory):
    """Start Phoenix on loopback. Returns its address."""
    folder = tmp_path_factory.mktemp("phoenix")
    port, grpc_port = free_ports()
    address = f"http://127.0.0.1:{port}"
    environment = dict(
        os.environ,
        PHOENIX_WORKING_DIR=str(folder),
        PHOENIX_HOST="127.0.0.1",
        PHOENIX_PORT=str(port),
        PHOENIX_GRPC_PORT=str(grpc_port),
        PHOENIX_TELEMETRY_ENABLED="false",
        PHOENIX_ALLOW_EXTERNAL_RESOURCES="false",
        PHOENIX_DISABLE_AGENT_ASSISTANT="true",
    )
    program = pathlib.Path(sys.executable).with_name("phoenix")
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(program), "serve"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until_healthy(process, address, log)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()


def wait_until_healthy(process, address, log):
    def healthy():
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        try:
            return requests.get(address + "/healthz", timeout=1).ok
        except requests.ConnectionError:
            return False

    for _ in range(6):  # twenty seconds each at most: Phoenix makes a database first
        try:
            return wait_for(healthy)
        except AssertionError:
            if process.poll() is not None:
                raise
    raise AssertionError(log.read_text(encoding="utf-8", errors="replace"))


def query(address, text):
    answer = requests.post(address + "/graphql", json={"query": text}, timeout=20).json()
    assert "errors" not in answer, answer
    return answer["data"]


def nodes(connection):
    return [edge["node"] for edge in connection["edges"]]


def received(address):
    """Return the project of this test, or None as long as Phoenix has not received it."""
    found = [one for one in nodes(query(address, GET_SPANS)["projects"]) if one["name"] == PROJECT]
    return found[0] if found else None


@pytest.fixture
def spans_to_phoenix(phoenix, monkeypatch):
    """Install telemetry that exports to Phoenix, with content."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    monkeypatch.setenv(CAPTURE_CONTENT, "SPAN_ONLY")
    resource = Resource.create({"openinference.project.name": PROJECT})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(phoenix + "/v1/traces")))
    telemetry.install(provider, openinference=True)
    yield provider
    telemetry.uninstall()
    provider.shutdown()


@tool
def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    if city == "Atlantis":
        raise LookupError("there is no such city")
    return "24 °C" if city == "Rome" else "9 °C"


def model(body):
    """Ask for the weather of three cities, and answer."""
    if tool_results(body):
        return "It is warmer in Rome."
    return calls(*[("get_weather", {"city": city}) for city in ("Rome", "Oslo", "Atlantis")])


def run_report():
    """Run a graph: choose cities, compare them with an agent, and write the report."""
    with ModelServer(model) as server:
        client = AnthropicInferenceClient(MODEL, api_key="none", api_url=server.url)
        agent = Agent(client, system="Be brief.", tools=[get_weather], name="meteorologist")

        def compare(task, context):
            question = f"Where is it warmer: {', '.join(context.inputs['choose'])}?"
            return agent.run(question, conversation_id="c-7").text

        handlers = {
            "choose": lambda task, context: ["Rome", "Oslo"],
            "compare": compare,
            "write": lambda task, context: context.inputs["compare"].upper(),
        }
        graph = TaskGraph("weather report")
        graph.add(Task(type="choose", params={"count": 2}), name="choose")
        graph.add(Task(type="compare"), name="compare", depends_on="choose")
        graph.add(Task(type="write"), name="write", depends_on="compare")
        with client, TaskScheduler(handlers) as scheduler:
            return scheduler.run(graph)


def test_run_in_phoenix(phoenix, spans_to_phoenix):
    """Phoenix shows the graph as a chain; agents, tools and requests with values and costs."""
    result = run_report()
    result.raise_for_failure()
    usage = result.usage
    assert spans_to_phoenix.force_flush(20_000)
    wait_for(lambda: received(phoenix) is not None and len(priced(phoenix)) == 2)
    project = received(phoenix)
    spans = nodes(project["spans"])
    by_id = {span["spanId"]: span for span in spans}

    def path(span):
        parent = by_id.get(span["parentId"])
        return ([] if parent is None else path(parent)) + [(span["name"], span["spanKind"])]

    run = [("invoke_workflow weather report", "chain")]
    task = run + [("task compare", "chain")]
    agent = task + [("invoke_agent meteorologist", "agent")]
    look_up, request = ("execute_tool get_weather", "tool"), (f"chat {MODEL}", "llm")
    assert sorted(map(path, spans)) == sorted(
        [run, task, run + [("task choose", "chain")], run + [("task write", "chain")], agent]
        + [agent + [look_up]] * 3
        + [agent + [request]] * 2
    )
    outputs = {span["name"]: span["output"]["value"] for span in spans if span["output"]}
    assert outputs["task choose"] == '["Rome", "Oslo"]'
    assert outputs["task write"] == "IT IS WARMER IN ROME."
    assert outputs["invoke_agent meteorologist"] == "It is warmer in Rome."
    tools = [span for span in spans if span["spanKind"] == "tool"]
    assert sorted((one["input"]["value"], one["output"]["value"]) for one in tools) == [
        ('{"city": "Atlantis"}', "LookupError: there is no such city"),
        ('{"city": "Oslo"}', "9 °C"),
        ('{"city": "Rome"}', "24 °C"),
    ]
    assert [one["statusCode"] for one in tools].count("ERROR") == 1
    llm = [span for span in spans if span["spanKind"] == "llm"]
    assert sum(span["tokenCountTotal"] for span in llm) == usage.total_tokens
    prices = phoenix_prices(phoenix)
    dollars = usage.input_tokens * prices["input"] + usage.output_tokens * prices["output"]
    assert sum(priced(phoenix)) == pytest.approx(dollars / 1e6)
    assert [one["sessionId"] for one in nodes(project["sessions"])] == ["c-7"]


def priced(address):
    """Return the costs of the requests whose cost Phoenix has computed."""
    spans = nodes(received(address)["spans"])
    summaries = [span["costSummary"] for span in spans if span["spanKind"] == "llm"]
    costs = [one["total"]["cost"] for one in summaries if one is not None]
    return [cost for cost in costs if cost is not None]


def phoenix_prices(address):
    """Return the prices of MODEL: US dollars for a million tokens."""
    models = nodes(query(address, GET_PRICES)["generativeModels"])
    (model,) = [one for one in models if one["name"] == MODEL]
    return {one["tokenType"]: one["costPerMillionTokens"] for one in model["tokenPrices"]}
