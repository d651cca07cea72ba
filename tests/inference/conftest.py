"""A client on a ModelServer."""

import importlib.util

import pytest

from asimov_sync import AnthropicInferenceClient
from asimov_sync.testing import ModelServer

if importlib.util.find_spec("anthropic") is None:
    collect_ignore = ["test_official_sdk.py"]  # `tox -e sdk` has it

KEY = "sk-secret-0123456789"


@pytest.fixture
def serve():
    """Starts ModelServers, and makes a client for each; all are closed after the test."""
    opened = []

    def start(answers, options=None, **server_options):
        server = ModelServer(answers, api_key=KEY, **server_options)
        client = AnthropicInferenceClient(
            model="claude-test", api_key=KEY, api_url=server.url, **(options or {})
        )
        opened.extend([client, server])
        return client, server

    yield start
    for one in opened:
        one.close()
