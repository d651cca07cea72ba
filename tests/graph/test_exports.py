"""asimov_sync.graph: exports its public names, and loads them on first use."""

import subprocess
import sys

import pytest

import asimov_sync
import asimov_sync.graph


@pytest.mark.parametrize("name", asimov_sync.graph.__all__)
def test_exports_public_names(name):
    """Each name can be imported, and is the same object as in asimov_sync, if that exports it."""
    value = getattr(asimov_sync.graph, name)
    assert name in dir(asimov_sync.graph)
    assert getattr(asimov_sync, name, value) is value


def test_unknown_name():
    """A name that is not exported is an AttributeError that names the module."""
    with pytest.raises(AttributeError, match=r"'asimov_sync\.graph' has no attribute 'Graph'"):
        asimov_sync.graph.Graph


def test_import_loads_no_other_module():
    """`import asimov_sync.graph` reads no module of the graph, and not pydantic."""
    program = (
        "import sys, asimov_sync.graph\n"
        "print([name for name in sys.modules if name.startswith(('asimov_sync.', 'pydantic'))])"
    )
    output = subprocess.check_output([sys.executable, "-c", program], universal_newlines=True)
    assert output == "['asimov_sync._exports', 'asimov_sync.graph']\n"
