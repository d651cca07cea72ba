"""The architecture: imports run one way, by layers and by files; each library has one place."""

import ast
import pathlib

import pytest

import asimov_sync

from .tiers import suite

PACKAGE = pathlib.Path(asimov_sync.__file__).parent

LAYERS = [
    ["_drawing", "_exports", "_json", "_models"],
    ["errors", "messages", "tasks"],
    ["concurrency"],
    ["cancellation", "usage", "instrumentation", "spans"],
    ["cache"],
    ["inference"],
    ["graph"],
    ["runs"],
    ["scheduler"],
    ["agents"],
    ["telemetry", "aio", "testing", "display", "web", "integrations", "cli"],
    ["__main__"],
]
"""The parts of the package, lowest layer first. A part imports its own layer and those before
it."""

LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}

PLANNED = {"runs", "web", "integrations", "cli"}
"""Parts that may not exist yet."""

LIBRARIES = {
    "asyncio": ("aio/", 3),
    "boto3": ("inference/", 1),
    "botocore": ("inference/", 1),
    "celery": ("integrations/", 1),
    "opentelemetry": ("telemetry/", 1),
    "redis": ("cache/", 1),
    "requests": ("inference/http/", 2),
    "sqlite3": ("cache/", 1),
    "tenacity": ("", 2),
    "urllib3": ("inference/http/", 2),
}
"""For each library, the folder whose files may import it, and the highest number of such files."""


def exports_of(path, package):
    """The names that a package's `__init__.py` imports, and for each the module it comes from."""
    prefix = ".".join(("asimov_sync",) + path.relative_to(package).parent.parts) + "."
    return {
        alias.asname: node.module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.startswith(prefix)
        for alias in node.names
        if alias.asname
    }


EXPORTS = {
    name: module[len("asimov_sync.") :]
    for name, module in exports_of(PACKAGE / "__init__.py", PACKAGE).items()
}
"""For each name that asimov_sync exports, the module that defines it."""


def files(package):
    """The files of a package, except for its `__init__.py`, which only exports names."""
    return sorted(path for path in package.rglob("*.py") if path != package / "__init__.py")


def module_of(path, package):
    """The name of a file's module, below asimov_sync: "graph.run"; for a folder's `__init__.py`
    that of the folder."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, package):
    """Yield the modules of asimov_sync that a file imports, as names below asimov_sync.

    Imports under TYPE_CHECKING and inside functions count.
    """
    home = path.relative_to(package).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ("asimov_sync",) + home[: len(home) - node.level + 1]
                base = ".".join(above + ((node.module,) if node.module else ()))
            names = [base + "." + alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("asimov_sync."):
                module = resolve(name[len("asimov_sync.") :], package)
                if module is not None:
                    yield module


def resolve(name, package):
    """The module that a name refers to or is defined in. Exported names are looked up."""
    parts = name.split(".")
    while parts:
        path = package.joinpath(*parts)
        if path.with_suffix(".py").exists() or path.joinpath("__init__.py").exists():
            return ".".join(parts)
        parts.pop()
    return EXPORTS.get(name)


def part_of(module):
    return module.split(".")[0]


def upward_imports(package):
    """The imports of a part by one of a lower layer."""
    found = []
    for path in files(package):
        module = module_of(path, package)
        for imported in imports(path, package):
            if LAYER[part_of(imported)] > LAYER[part_of(module)]:
                found.append(f"{module} imports {imported}")
    return found


def circles(package):
    """The sets of files that import each other, directly or through others (Tarjan's algorithm)."""
    graph = {}
    for path in files(package):
        module = module_of(path, package)
        graph.setdefault(module, set()).update(set(imports(path, package)) - {module})
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for imported in graph.get(module, ()):
            if imported not in index:
                visit(imported)
                low[module] = min(low[module], low[imported])
            elif imported in stack:
                low[module] = min(low[module], index[imported])
        if low[module] == index[module]:
            members = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(members) > 1:
                found.append(members)

    for module in graph:
        if module not in index:
            visit(module)
    return found


def plant(package, files):
    """Write files below a package, by their paths and contents."""
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


# Layers


def test_every_part_has_a_layer():
    """A new part of the package has to be entered in LAYERS."""
    parts = {part_of(module_of(path, PACKAGE)) for path in files(PACKAGE)}
    assert parts <= set(LAYER)
    assert set(LAYER) - parts <= PLANNED


def test_imports_point_to_lower_layers():
    """No file imports a part of a higher layer, not even inside a function or for its types."""
    assert upward_imports(PACKAGE) == []


@pytest.mark.parametrize(
    "text",
    [
        "from asimov_sync.graph.run import Run\n",
        "def f():\n    from asimov_sync.graph.run import Run\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asimov_sync.graph.run\n",
        "from asimov_sync import TaskGraph\n",
        "from ..graph import run\n",
    ],
)
def test_a_planted_upward_import_is_found(text, tmp_path):
    """The check finds an import of the graph by the cache, in each of its forms."""
    plant(tmp_path, {"cache/planted.py": text, "graph/__init__.py": "", "graph/run.py": ""})
    assert len(upward_imports(tmp_path)) == 1


# Circles


def test_no_two_files_import_each_other():
    """No two files import each other, directly or through others."""
    assert circles(PACKAGE) == []


@pytest.mark.parametrize(
    "first",
    [
        "import asimov_sync.cache.b\n",
        "def f():\n    from asimov_sync.cache.b import B\n",
        "import typing\nif typing.TYPE_CHECKING:\n    from asimov_sync.cache import b\n",
        "from . import b\n",
        "from .b import B\n",
    ],
)
def test_a_planted_circle_is_found(first, tmp_path):
    """The check finds a circle of three files, in every form of import, and nothing else."""
    plant(
        tmp_path,
        {
            "cache/__init__.py": "",
            "cache/a.py": first,
            "cache/b.py": "from asimov_sync.cache.c import C\n",
            "cache/c.py": "from asimov_sync.cache.a import A\n",
            "cache/d.py": "from asimov_sync.cache.a import A\n",
        },
    )
    assert circles(tmp_path) == [{"cache.a", "cache.b", "cache.c"}]


# Other rules


@suite
def test_each_library_has_its_place():
    """A third-party library is imported by a limited number of files in one folder."""
    importers = {library: set() for library in LIBRARIES}
    for path in files(PACKAGE):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                if name.split(".")[0] in importers:
                    importers[name.split(".")[0]].add(path.relative_to(PACKAGE).as_posix())
    for library, (folder, most) in LIBRARIES.items():
        found = importers[library]
        assert len(found) <= most, f"{library} is imported by {sorted(found)}"
        assert all(name.startswith(folder) for name in found), f"{library}: {sorted(found)}"


@suite
def test_only_drawing_is_loaded_upwards_by_name():
    """No file imports modules by name but `_exports`, `_drawing` (the display), the command, and
    the file for handlers that are given by name."""
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in files(PACKAGE)
        if part_of(module_of(path, PACKAGE)) != "cli"
        and any(
            name in path.read_text(encoding="utf-8") for name in ("import_module", "__import__")
        )
    }
    # The last one imports what the values of `handlers=` name.
    assert importers == {"_drawing.py", "_exports.py", "graph/importing.py"}
    drawing = PACKAGE.joinpath("_drawing.py").read_text(encoding="utf-8")
    assert drawing.count("import_module(") == drawing.count('import_module("asimov_sync.display.')


@suite
def test_json_has_one_parser():
    """Only `_json` parses JSON: the standard parser has no limit on the nesting of untrusted
    text."""
    for path in files(PACKAGE):
        if module_of(path, PACKAGE) != "_json":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                attribute = getattr(node, "attr", "")
                if attribute == "loads" and getattr(node.value, "attr", "") == "_serializer":
                    continue  # the user's
                assert attribute not in ("load", "loads", "JSONDecoder", "raw_decode"), path


def test_pickles_are_read_in_two_files():
    """Only the values of calls in other processes, and the result in an error, are unpickled."""
    readers = {
        module_of(path, PACKAGE)
        for path in files(PACKAGE)
        if "pickle import" in path.read_text(encoding="utf-8")
        or "import pickle" in path.read_text(encoding="utf-8")
    }
    assert readers == {"errors", "graph.travel"}


@suite
def test_time_has_one_source():
    """Only `concurrency.clock` reads the monotonic time, so `testing.Clock` moves all of it."""
    for path in files(PACKAGE):
        module = module_of(path, PACKAGE)
        if module != "concurrency.clock" and part_of(module) != "testing":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                assert getattr(node, "attr", "") != "monotonic" or node.value.id == "clock", path
                assert getattr(node, "attr", "") != "sleep" or node.value.id != "time", path


def test_no_print():
    """The library does not print; its command line does."""
    for path in files(PACKAGE):
        if part_of(module_of(path, PACKAGE)) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_print = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not is_print, path
