"""The metrics of each generation: names, units, buckets, values and attributes."""

import inspect

import pytest
from opentelemetry.metrics import Meter

from asimov_sync import (
    Agent,
    ChatMessage,
    InvalidRequestError,
    RateLimitError,
    Reply,
    Task,
    TaskGraph,
    TaskScheduler,
    Usage,
    tool,
)
from asimov_sync.telemetry import names
from asimov_sync.telemetry.metrics import Metrics
from asimov_sync.testing import Failure, ScriptedInferenceClient, calls, tool_results

SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
AGENT = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6]
WORKFLOW = [1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200]
CALLS = [1, 2, 4, 8, 16, 32, 64, 128]
COUNTER = None

OLD = {
    "gen_ai.client.operation.duration": ("s", SECONDS),
    "gen_ai.client.operation.time_to_first_chunk": ("s", SECONDS),
    "gen_ai.client.operation.time_per_output_chunk": ("s", SECONDS),
    "gen_ai.client.token.usage": ("{token}", TOKENS),
}
NEW = {
    "gen_ai.client.inference.duration": ("s", SECONDS),
    "gen_ai.client.inference.time_to_first_chunk": ("s", SECONDS),
    "gen_ai.client.inference.time_per_output_chunk": ("s", SECONDS),
    "gen_ai.client.inference.usage.input_tokens": ("{token}", COUNTER),
    "gen_ai.client.inference.usage.output_tokens": ("{token}", COUNTER),
    "gen_ai.client.inference.usage.cache_read.input_tokens": ("{token}", COUNTER),
    "gen_ai.client.inference.usage.cache_write.input_tokens": ("{token}", COUNTER),
    "gen_ai.client.inference.usage.reasoning.output_tokens": ("{token}", COUNTER),
    "gen_ai.client.inference.operation.input_tokens": ("{token}", TOKENS),
    "gen_ai.client.inference.operation.output_tokens": ("{token}", TOKENS),
    "gen_ai.invoke_agent.duration": ("s", AGENT),
    "gen_ai.invoke_agent.inference_calls": ("{inference_call}", CALLS),
    "gen_ai.invoke_agent.tool_calls": ("{tool_call}", CALLS),
    "gen_ai.execute_tool.duration": ("s", SECONDS),
    "gen_ai.invoke_workflow.duration": ("s", WORKFLOW),
}
CAN_ADVISE = (
    "explicit_bucket_boundaries_advisory" in inspect.signature(Meter.create_histogram).parameters
)
USAGE = Usage(
    input_tokens=100,
    output_tokens=40,
    cache_read_input_tokens=20,
    cache_write_input_tokens=3,
    reasoning_tokens=10,
    requests=1,
)


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word.upper()


def model(body):
    """Make two calls, then a third, and then answer."""
    if "three" in str(body["messages"]):
        return Reply(
            message=ChatMessage(role="assistant", content="found"),
            stop_reason="end_turn",
            usage=USAGE,
            model="m-2",
        )
    if tool_results(body):
        return calls(("look_up", {"word": "three"}))
    return calls(("look_up", {"word": "one"}), ("look_up", {"word": "two"}))


def run_and_stream():
    """Run a graph with an agent, and read a stream."""
    client = ScriptedInferenceClient(model, model="m")
    graph = TaskGraph("survey")
    graph.add(Task(type="ask", objective="what?"), name="ask")
    with TaskScheduler({"ask": Agent(client, tools=[look_up], name="ada")}) as scheduler:
        scheduler.run(graph).raise_for_failure()
    list(client.stream("three"))


def test_names_units_and_buckets(generation, exported):
    """A generation has only its own metrics, with buckets if OpenTelemetry accepts them."""
    run_and_stream()
    found = exported.metrics()
    expected = OLD if generation is names.V1_41 else NEW
    assert sorted(found) == sorted(expected)
    for name, (unit, boundaries) in expected.items():
        assert (found[name].unit, bool(found[name].description)) == (unit, True)
        if boundaries is COUNTER:
            assert found[name].data.is_monotonic
        elif CAN_ADVISE:
            assert list(found[name].data.data_points[0].explicit_bounds) == pytest.approx(
                boundaries
            )


def test_meter_without_boundaries():
    """Before OpenTelemetry 1.29, metrics are created without bucket boundaries."""
    made = []

    class MeterWithoutBoundaries:
        def create_histogram(self, name, unit="", description=""):
            made.append(name)

        def create_counter(self, name, unit="", description=""):
            made.append(name)

    Metrics(MeterWithoutBoundaries(), names.LATEST)
    assert sorted(made) == sorted(NEW)


def test_durations_match_spans(generation, exported):
    """The durations of metrics and spans are equal to the nanosecond."""
    run_and_stream()
    spans = {"chat m": generation.duration.name}
    if generation is names.LATEST:
        spans["execute_tool look_up"] = "gen_ai.execute_tool.duration"
        spans["invoke_agent ada"] = "gen_ai.invoke_agent.duration"
        spans["invoke_workflow survey"] = "gen_ai.invoke_workflow.duration"
    for span, metric in spans.items():
        seconds = sum(one.end_time - one.start_time for one in exported.spans_named(span)) / 1e9
        assert sum(point.sum for point in exported.points(metric)) == pytest.approx(
            seconds, abs=1e-9
        )


def test_tokens_of_1_41(exported):
    """One histogram is split by type. Input includes cached tokens."""
    list(ScriptedInferenceClient(model, model="m").stream("three"))
    points = {
        point.attributes[names.TOKEN_TYPE]: point
        for point in exported.points("gen_ai.client.token.usage")
    }
    assert {kind: point.sum for kind, point in points.items()} == {"input": 123, "output": 40}
    assert dict(points["input"].attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m-2",
        "gen_ai.token.type": "input",
    }


@pytest.mark.parametrize("generation", ["gen_ai_latest_experimental"], indirect=True)
def test_tokens_of_latest(generation, exported):
    """LATEST has a counter for each kind and a histogram of the tokens of a request."""
    list(ScriptedInferenceClient(model, model="m").stream("three"))
    prefix = "gen_ai.client.inference.usage."
    expected = {
        "input_tokens": 123,
        "output_tokens": 40,
        "cache_read.input_tokens": 20,
        "cache_write.input_tokens": 3,
        "reasoning.output_tokens": 10,
    }
    for name, count in expected.items():
        (point,) = exported.points(prefix + name)
        assert (point.value, point.attributes[names.TOKEN_MODALITY]) == (count, "unknown")
    (point,) = exported.points("gen_ai.client.inference.operation.input_tokens")
    assert (point.sum, names.TOKEN_MODALITY in point.attributes) == (123, False)
    (point,) = exported.points("gen_ai.client.inference.time_to_first_chunk")
    assert names.TOKEN_MODALITY not in point.attributes


def test_failed_request(generation, exported):
    """A failed request's duration has the error's type. LATEST counts zero tokens for it."""
    with pytest.raises(RateLimitError):
        ScriptedInferenceClient([Failure(429)], model="m", max_retries=0).generate("hello")
    (point,) = exported.points(generation.duration.name)
    assert point.attributes[names.ERROR_TYPE] == "rate_limit_error"
    assert names.RESPONSE_MODEL not in point.attributes
    if generation is names.V1_41:
        assert sorted(exported.metrics()) == [generation.duration.name]
    else:
        (point,) = exported.points("gen_ai.client.inference.usage.input_tokens")
        assert (point.value, names.ERROR_TYPE in point.attributes) == (0, False)
        assert "gen_ai.client.inference.operation.input_tokens" not in exported.metrics()


def test_only_streams_have_chunks(generation, exported):
    """Replies that are not streamed record no times of chunks."""
    client = ScriptedInferenceClient(["one", "two"], model="m")
    client.generate("hello")
    assert generation.first_chunk.name not in exported.metrics()
    assert generation.later_chunk.name not in exported.metrics()
    events = list(client.stream("hello"))
    (point,) = exported.points(generation.first_chunk.name)
    assert point.count == 1
    first = point.sum
    (point,) = exported.points(generation.later_chunk.name)
    assert point.count == len(events) - 1
    (span,) = [span for span in exported.spans if names.REQUEST_STREAM in span.attributes]
    assert 0 < first + point.sum <= (span.end_time - span.start_time) / 1e9


@pytest.mark.parametrize("generation", ["gen_ai_latest_experimental"], indirect=True)
def test_agents_and_tools(generation, exported):
    """An agent's requests and calls are counted. All unknown tools share one name."""
    client = ScriptedInferenceClient(
        [calls(("look_up", {"word": "one"}), ("made_up", {})), "found", Failure(400)], model="m"
    )
    agent = Agent(client, tools=[look_up], name="ada")
    agent.run("what?")
    with pytest.raises(InvalidRequestError):
        agent.run("what?")
    (requests,) = exported.points("gen_ai.invoke_agent.inference_calls")
    (tools,) = exported.points("gen_ai.invoke_agent.tool_calls")
    assert (requests.sum, requests.count, tools.sum, tools.count) == (3, 2, 2, 2)
    assert dict(requests.attributes) == {"gen_ai.agent.name": "ada", "gen_ai.request.model": "m"}
    errors = {
        point.attributes.get(names.ERROR_TYPE)
        for point in exported.points("gen_ai.invoke_agent.duration")
    }
    assert errors == {None, "invalid_request_error"}
    by_tool = {
        point.attributes["gen_ai.tool.name"]: point.attributes.get(names.ERROR_TYPE)
        for point in exported.points("gen_ai.execute_tool.duration")
    }
    assert by_tool == {"look_up": None, "_OTHER": "LookupError"}


@pytest.mark.parametrize("generation", ["gen_ai_latest_experimental"], indirect=True)
def test_nested_agent(generation, exported):
    """Agents count only their own requests; the outer agent's tokens include the inner agent's."""
    inner = Agent(ScriptedInferenceClient(["found"], model="m"), name="inner")

    @tool
    def research(question: str) -> str:
        """Ask another agent."""
        return inner.run(question).text

    outer = Agent(
        ScriptedInferenceClient([calls(("research", {"question": "?"})), "done"], model="m"),
        tools=[research],
    )
    outer.run("what?")
    counted = {
        point.attributes.get("gen_ai.agent.name"): point.sum
        for point in exported.points("gen_ai.invoke_agent.inference_calls")
    }
    assert counted == {"inner": 1, None: 2}
    path = "/invoke_agent/execute_tool research/invoke_agent inner/chat m"
    assert path in exported.paths()
    used = sum(
        span.attributes[names.USAGE_OUTPUT_TOKENS] for span in exported.spans_named("chat m")
    )
    assert exported.only_span("invoke_agent").attributes[names.USAGE_OUTPUT_TOKENS] == used
