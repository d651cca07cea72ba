"""Installs telemetry for a test, removes it afterwards, and checks the names it used."""

import importlib.util

import pytest

from asimov_sync import telemetry
from asimov_sync.telemetry import CAPTURE_CONTENT, STABILITY_OPT_IN, names

from .exported import GENERATIONS, Exported

if importlib.util.find_spec("phoenix") is None:
    collect_ignore = ["test_phoenix.py"]  # `tox -e phoenix` has it


@pytest.fixture(autouse=True)
def clean_telemetry_environment(monkeypatch):
    """Remove the environment variables that opt in, so that each test sets its own."""
    for name in (STABILITY_OPT_IN, CAPTURE_CONTENT):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exported():
    """Install telemetry without content, and check the names of all attributes afterwards."""
    exported = Exported()
    telemetry.install(exported.tracer_provider, exported.meter_provider)
    yield exported
    telemetry.uninstall()
    assert exported.attributes() <= names.ATTRIBUTES - names.CONTENT - names.OPENINFERENCE


@pytest.fixture(params=sorted(GENERATIONS), ids=lambda word: word or "1.41")
def generation(request, monkeypatch):
    """Select a generation of the conventions. Request it before `exported`."""
    monkeypatch.setenv(STABILITY_OPT_IN, request.param)
    return GENERATIONS[request.param]


@pytest.fixture
def with_content(monkeypatch):
    """Install telemetry with content, and check the names of all attributes afterwards."""
    monkeypatch.setenv(CAPTURE_CONTENT, "SPAN_ONLY")
    exported = Exported()
    telemetry.install(exported.tracer_provider, exported.meter_provider)
    yield exported
    telemetry.uninstall()
    assert exported.attributes() <= names.ATTRIBUTES - names.OPENINFERENCE


@pytest.fixture
def with_openinference(monkeypatch):
    """Install telemetry with content and the attributes of OpenInference."""
    monkeypatch.setenv(CAPTURE_CONTENT, "SPAN_ONLY")
    exported = Exported()
    telemetry.install(exported.tracer_provider, exported.meter_provider, openinference=True)
    yield exported
    telemetry.uninstall()
    assert exported.attributes() <= names.ATTRIBUTES
