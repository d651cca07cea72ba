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
    """Start ModelServers, each with a client. All are closed after the test."""
    resources = []

    def start(script, options=None, **server_options):
        server = ModelServer(script, api_key=KEY, **server_options)
        client = AnthropicInferenceClient(
            model="claude-test", api_key=KEY, api_url=server.url, **(options or {})
        )
        resources.extend([client, server])
        return client, server

    yield start
    for resource in resources:
        resource.close()
