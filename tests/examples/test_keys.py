"""Examples with an API key."""

import pytest

from ..tiers import soak, suite
from .programs import run

pytestmark = suite


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["research.py", "Honey?"], id="research"),
        pytest.param(["writer_critic.py", "--words", "3"], id="writer_critic", marks=soak),
        pytest.param(["router.py"], id="router", marks=soak),
    ],
)
def test_key_is_used(arguments, bees):
    """With a key the real client is used: here it cannot connect, and no output has the key."""
    proxy = "http://127.0.0.1:9"
    done = run(
        *(arguments + [bees]), ANTHROPIC_API_KEY="sk-none", HTTPS_PROXY=proxy, https_proxy=proxy
    )
    assert done.returncode == 1
    assert (
        "ConnectionFailed" in done.stdout + done.stderr
        and "No ANTHROPIC_API_KEY" not in done.stderr
    )
    assert "sk-none" not in done.stdout + done.stderr
