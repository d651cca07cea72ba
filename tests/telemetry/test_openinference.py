"""install(openinference=True) adds span kinds, values and costs that are not in the conventions."""

import json

import pytest

from asimov_sync import Agent, Budget, Price, Task, TaskGraph, TaskScheduler, telemetry, tool
from asimov_sync.telemetry import names
from asimov_sync.testing import ScriptedInferenceClient, calls, tool_results

from .exported import Exported

PRICES = {"m": Price(input=1.0, output=10.0)}


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word.upper()


def model(body):
    return "found" if tool_results(body) else calls(("look_up", {"word": "one"}))


def run_survey():
    """Run a task that computes data, and an agent with one tool that depends on it."""
    agent = Agent(ScriptedInferenceClient(model, model="m"), tools=[look_up], name="ada")
    graph = TaskGraph("survey")
    graph.add(Task(type="load", objective="load it", params={"page": 0}), name="load")
    graph.add(Task(type="answer", objective="what?"), name="answer", depends_on="load")
    handlers = {"load": lambda task, context: {"text": "swordfish"}, "answer": agent}
    with TaskScheduler(handlers) as scheduler:
        budget = Budget(tokens=10**6, prices=PRICES)
        return scheduler.run(graph, budget=budget, params={"load": {"page": 1}})


def test_kinds_and_values(with_openinference):
    """Runs and tasks are chains; each span has its input and its result."""
    run_survey().raise_for_failure()
    values = {}
    first, second = with_openinference.spans_named("chat m")
    (call,) = json.loads(first.attributes[names.OUTPUT_VALUE])
    assert (call["type"], call["name"]) == ("tool_call", "look_up")
    (result,) = json.loads(second.attributes[names.INPUT_VALUE])
    assert (result["type"], result["response"]) == ("tool_call_response", "ONE")
    assert second.attributes[names.OUTPUT_VALUE] == "found"
    for span in with_openinference.spans:
        if span.name == "chat m":
            assert span.attributes[names.SPAN_KIND] == "LLM"
            continue
        attributes = span.attributes
        output = attributes[names.OUTPUT_VALUE]
        if attributes[names.OUTPUT_MIME_TYPE] == "application/json":
            output = json.loads(output)
        values.setdefault(span.name, (attributes[names.SPAN_KIND], output))
    assert values == {
        "invoke_workflow survey": ("CHAIN", {"load": {"text": "swordfish"}, "answer": "found"}),
        "task load": ("CHAIN", {"text": "swordfish"}),
        "task answer": ("CHAIN", "found"),
        "invoke_agent ada": ("AGENT", "found"),
        "execute_tool look_up": ("TOOL", "ONE"),
    }
    given = {
        span.name: span.attributes[names.INPUT_VALUE]
        for span in with_openinference.spans
        if names.INPUT_VALUE in span.attributes
    }
    assert json.loads(given["task answer"]) == {
        "objective": "what?",
        "inputs": {"load": {"text": "swordfish"}},
    }
    assert json.loads(given["task load"]) == {"objective": "load it", "params": {"page": 1}}
    assert json.loads(given["execute_tool look_up"]) == {"word": "one"}
    assert "what?" in given["invoke_agent ada"]


def test_costs(with_openinference):
    """A request costs what the prices of the budgets say; an unknown model has no cost."""
    usage = run_survey().usage
    requests = with_openinference.spans_named("chat m")
    costs = [span.attributes[names.USAGE_COST] for span in requests]
    assert len(costs) == 2
    assert sum(costs) == pytest.approx(PRICES["m"].cost(usage))
    ScriptedInferenceClient(["hi"], model="other").generate("hello")
    assert names.USAGE_COST not in with_openinference.only_span("chat other").attributes


def test_no_values_without_content():
    """Without content, spans have their kinds and costs, but no values."""
    exported = Exported()
    telemetry.install(exported.tracer_provider, exported.meter_provider, openinference=True)
    run_survey()
    telemetry.uninstall()
    found = exported.attributes()
    assert found & (names.OPENINFERENCE | names.CONTENT) == {names.SPAN_KIND, names.USAGE_COST}
    assert "swordfish" not in "".join(span.to_json() for span in exported.spans)
