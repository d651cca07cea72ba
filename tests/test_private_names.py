"""Tests use public names: no attribute of another object whose name starts with an underscore."""

import ast
import pathlib

import pytest

from .tiers import suite

TESTS = pathlib.Path(__file__).resolve().parent

OWN = ("self", "cls", "super()")
"""The objects whose private names a class may use: its own."""

PUBLIC = ("_asdict", "_fields", "_make", "_replace", "_repr_html_")
"""The methods of named tuples and of notebooks, which are public in spite of their names."""

OTHER_PACKAGES = ("os._exit", "sys._current_frames")
"""Names of other packages that have no public equivalent."""

BY_NAME = ("delattr", "getattr", "hasattr", "setattr")
"""Functions, and methods of pytest's monkeypatch, that take the name of an attribute."""


def is_private(name):
    """Return whether the last part of a name starts with one underscore."""
    last = name.rpartition(".")[2]
    return last.startswith("_") and not last.startswith("__") and last != "_"


def source_of(node):
    """Return the text of `name`, `name.attribute` and `name()`; empty for other expressions."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        return source_of(node.func) + "()"
    if isinstance(node, ast.Attribute):
        return f"{source_of(node.value)}.{node.attr}"
    return ""


def texts_of(nodes):
    """Return the values of those nodes that are literal text."""
    # Before Python 3.8 a literal is a Str or a Num.
    literals = [node for node in nodes if type(node).__name__ in ("Constant", "Str")]
    return [text for text in map(ast.literal_eval, literals) if isinstance(text, str)]


def private_names(node):
    """Return the private names of other objects that a node of a syntax tree uses."""
    if isinstance(node, ast.Attribute):
        owner = source_of(node.value)
        if owner in OWN or f"{owner}.{node.attr}" in OTHER_PACKAGES or node.attr in PUBLIC:
            return []
        names = [node.attr]
    elif isinstance(node, ast.ImportFrom):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.Call) and source_of(node.func).rpartition(".")[2] in BY_NAME:
        names = texts_of(node.args[:2]) if source_of(node.args[0]) not in OWN else []
    else:
        return []
    return [name for name in names if is_private(name)]


def find_private_names(path):
    """Return each private name that a file uses, with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(node.lineno, name) for node in ast.walk(tree) for name in private_names(node)]


@suite
def test_tests_use_public_names():
    """No test, and none of the helpers of the tests, uses a private name."""
    found = [
        f"{path.relative_to(TESTS.parent)}:{line}: {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for line, name in find_private_names(path)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source, names",
    [
        ("client._runtime", ["_runtime"]),
        ("assert not client.a._b.c()._d[0]._e", ["_e", "_d", "_b"]),
        ("client._send = None", ["_send"]),
        ("self.client._send()", ["_send"]),
        ("from asimov_sync.cancellation import _lock", ["_lock"]),
        ("getattr(client, '_send')", ["_send"]),
        ("monkeypatch.setattr(client, '_send', None)", ["_send"]),
        ("monkeypatch.setattr('asimov_sync.cancellation._lock', None)", ["._lock"]),
        ("self._send, cls._send, super()._send, getattr(self, '_send')", []),
        ("client.__class__, event._replace(a=1), os._exit(1), setattr(client, 'a', '_b')", []),
    ],
)
def test_planted_names(source, names, tmp_path):
    """The private names of other objects are found; those of the object itself are not."""
    path = tmp_path / "planted.py"
    path.write_text("\n" + source + "\n", encoding="utf-8")
    found = find_private_names(path)
    assert {line for line, _ in found} == ({2} if names else set())
    assert [name.replace("asimov_sync.cancellation", "") for _, name in found] == names
