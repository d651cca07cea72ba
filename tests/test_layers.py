"""The house has one way down: a module imports its own row and the rows above it."""

import ast
import pathlib

import asimov_sync

HOME = pathlib.Path(asimov_sync.__file__).parent

ROWS = [
    ["errors", "foreign_json"],
    ["forking", "hooks"],
    ["messages", "tasks"],
    ["cancellation", "taps"],
    ["prices", "metering"],
    ["budget"],
    ["workers"],
    ["cache"],
    ["inference"],
    ["graph"],
    ["agents"],
    ["testing", "telemetry"],
    ["aio"],
]
ROW = {part: number for number, parts in enumerate(ROWS) for part in parts}

ALLOWED_UP = {("errors", "messages")}
"""What a module may name for its types alone: an error that carries a reply has to say so."""

OWNERS = {
    "redis": {"cache/redis.py"},
    "requests": {"inference/http/connections.py", "inference/http/errors.py"},
    "urllib3": {"inference/http/connections.py", "inference/http/errors.py"},
    "tenacity": {"inference/retry.py", "graph/retry.py"},
    "boto3": {"inference/providers/bedrock/runtime.py"},
    "botocore": {"inference/providers/bedrock/runtime.py"},
    "opentelemetry": {"telemetry/spans.py"},
    "asyncio": {"aio/threads.py"},
}


def modules():
    return sorted(path for path in HOME.rglob("*.py") if path != HOME / "__init__.py")


def imports(path):
    """(module, whether it is for types alone) of every import in a file, those inside functions included."""
    found = []

    def walk(node, typing_only):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, typing_only) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                if child.module == "asimov_sync":
                    found.extend(("asimov_sync." + alias.name, typing_only) for alias in child.names)
                else:
                    found.append((child.module, typing_only))
            else:
                checking = isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"
                walk(child, typing_only or checking)

    walk(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def part(module):
    return module.split(".")[1]


def violations(path):
    mine = part("asimov_sync." + ".".join(path.relative_to(HOME).with_suffix("").parts))
    wrong = []
    for module, typing_only in imports(path):
        if module.startswith("asimov_sync."):
            theirs = part(module)
            if ROW[theirs] > ROW[mine] and not (typing_only and (mine, theirs) in ALLOWED_UP):
                wrong.append("{} imports {}".format(path.relative_to(HOME), module))
    return wrong


def test_every_module_is_in_a_row():
    """A new part of the package has to be given its place in the order."""
    assert {part("asimov_sync." + ".".join(path.relative_to(HOME).with_suffix("").parts)) for path in modules()} == set(ROW)


def test_imports_point_up():
    """No module imports one of a row below its own, not even inside a function."""
    assert [line for path in modules() for line in violations(path)] == []


def test_a_planted_import_is_found(tmp_path, monkeypatch):
    """The check above can fail: an import of the graph by the cache is found, inside a function too."""
    planted = tmp_path / "cache" / "planted.py"
    planted.parent.mkdir()
    planted.write_text("def f():\n    from asimov_sync.graph.run import Run\n", encoding="utf-8")
    monkeypatch.setattr("tests.test_layers.HOME", tmp_path)
    assert len(violations(planted)) == 1


def test_each_library_has_one_file():
    """Only the files of OWNERS import redis, requests, urllib3, boto3, tenacity, opentelemetry and asyncio."""
    for path in modules():
        for module, _ in imports(path):
            owners = OWNERS.get(module.split(".")[0])
            assert owners is None or path.relative_to(HOME).as_posix() in owners, "{} imports {}".format(path, module)


def test_foreign_json_has_one_parser():
    """Only `foreign_json` parses JSON: the standard parser, by itself, goes as deep as a stranger's text."""
    for path in modules():
        if path.stem != "foreign_json":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                assert getattr(node, "attr", "") not in ("load", "loads", "JSONDecoder", "raw_decode"), path


def test_no_print():
    """A library does not print."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), path
