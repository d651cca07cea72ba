"""Telemetry for tests: installed for each of them, undone after it, and held against the list of names."""

import pytest

from asimov_sync import telemetry
from asimov_sync.telemetry import CAPTURE_CONTENT, STABILITY_OPT_IN, names

from .exported import GENERATIONS, Exported


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Nothing is opted into that the test does not say."""
    for name in (STABILITY_OPT_IN, CAPTURE_CONTENT):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exported():
    """Telemetry is installed; whatever it makes is called what the list of names says, and tells no content."""
    made = Exported()
    telemetry.install(made.tracer_provider, made.meter_provider)
    yield made
    telemetry.uninstall()
    assert made.attributes() <= names.ATTRIBUTES - names.CONTENT


@pytest.fixture(params=sorted(GENERATIONS), ids=lambda word: word or "1.41")
def generation(request, monkeypatch):
    """One generation of the conventions after the other; to be named before `exported`."""
    monkeypatch.setenv(STABILITY_OPT_IN, request.param)
    return GENERATIONS[request.param]


@pytest.fixture
def telling(monkeypatch):
    """Content is asked for."""
    monkeypatch.setenv(CAPTURE_CONTENT, "SPAN_ONLY")
    made = Exported()
    telemetry.install(made.tracer_provider, made.meter_provider)
    yield made
    telemetry.uninstall()
    assert made.attributes() <= names.ATTRIBUTES
