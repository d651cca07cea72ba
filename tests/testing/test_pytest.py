"""The fixtures of asimov_sync.testing.pytest, in a test session of their own."""

from ..tiers import suite

pytest_plugins = ["pytester"]

pytestmark = suite

TESTS = """
import pytest
from asimov_sync import AnthropicInferenceClient, Cancellation, ConnectionFailed

kept = []

def test_fixtures(model_server, cache, clock):
    server = model_server(["Good evening."], api_key="k")
    client = AnthropicInferenceClient(model="m", api_key="k", api_url=server.url)
    cache.set("greeting", client.generate("Greet me.").text)
    assert cache.get("greeting") == "Good evening."
    token = Cancellation(timeout=3600)
    clock.advance(3600)
    assert token.cancelled
    kept.extend([client, clock])

def test_after():
    client, clock = kept
    with pytest.raises(ConnectionFailed):
        client.generate("Greet me.", max_retries=0)
    with pytest.raises(RuntimeError):
        clock.advance(1)
"""


def test_fixtures_of_a_loaded_plugin(pytester):
    """A session that loads the plugin has the fixtures, and they end with the test."""
    pytester.makeconftest('pytest_plugins = ["asimov_sync.testing.pytest"]')
    pytester.makepyfile(TESTS)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_the_plugin_is_not_loaded_by_itself(pytester):
    """Without that line there are no fixtures."""
    pytester.makepyfile(TESTS)
    outcome = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    outcome.assert_outcomes(errors=1, failed=1)
    outcome.stdout.fnmatch_lines(["*fixture 'model_server' not found*"])
