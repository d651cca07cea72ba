"""The code blocks of README.rst and of the documentation are executed."""

import asyncio
import importlib
import importlib.util
import inspect
import logging
import pathlib
import re
import textwrap

import pytest

import asimov_sync
from asimov_sync import tasks

from .tiers import suite

pytestmark = suite

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.rst"


DOCS = ROOT / "docs"
GUIDES = {
    "agents",
    "async",
    "cache",
    "display",
    "durability",
    "graph",
    "inference",
    "processes",
    "recipes",
    "runs_page",
    "telemetry",
    "testing",
    "web",
}
OTHER_PAGES = {
    "changes",
    "command",
    "contributing",
    "errors",
    "index",
    "migrating",
    "scaling",
    "start",
}


def blocks(language, path=README):
    """Return the code blocks of a language in a file, including those in lists."""
    return blocks_in(path.read_text(encoding="utf-8"), language)


def blocks_in(text, language):
    """Return the code blocks of a language in a text."""
    pattern = rf"^( *)\.\. code-block:: {language}\n\n((?:\1    .*\n| *\n)+)"
    return [textwrap.dedent(block).strip() for _, block in re.findall(pattern, text, re.M)]


def test_the_python_blocks_run(capsys, tmp_path, monkeypatch):
    """The Python blocks run, one after the other, and their asserts hold."""
    monkeypatch.chdir(tmp_path)
    python = blocks("python")
    assert len(python) >= 7
    namespace = {}
    for number, block in enumerate(python):
        exec(compile(block, f"README.rst, block {number + 1}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert printed.startswith("Good evening.")
    assert "tokens in 2 requests" in printed
    namespace["scheduler"].close()
    namespace["client"].close()
    namespace["server"].close()


def test_there_are_two_commands():
    """The console blocks are the two commands that CI finds by their markers, one line each."""
    pattern = r"^\.\. ci-command: (\w+)\n\n\.\. code-block:: console\n\n    (.*)\n\n(?=\S)"
    commands = dict(re.findall(pattern, README.read_text(encoding="utf-8"), re.M))
    assert list(commands.values()) == blocks("console")
    assert set(commands) == {"demo", "tests"}
    assert "examples/brief.py README.rst" in commands["demo"]
    assert commands["tests"].endswith("pytest tests/")


@pytest.fixture
def log_settings():
    """Restores the level and the handlers of the library's logger, which a page sets."""
    logger = logging.getLogger("asimov_sync")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.usefixtures("log_settings")
def test_the_documentation_runs():
    """The Python blocks of each page run, one after the other.

    Blocks that need a Redis cluster or Django are only compiled. A block that imports Flask runs if
    Flask is installed. Those for Celery and RQ run in `tox -e engines`, with workers. Recipes have
    tests of their own, in test_recipes.py.
    """
    paths = sorted(DOCS.rglob("*.rst"))
    assert {path.stem for path in paths if path.parent == DOCS} == GUIDES | OTHER_PAGES
    for path in [path for path in paths if path.stem != "recipes"]:
        namespace = {"__name__": "__main__"}  # Flask looks for the folder of its module
        ran = 0
        for number, block in enumerate(blocks("python", path)):
            code = compile(block, f"{path.name}, block {number + 1}", "exec")
            if "RedisCluster(" not in block and installed(block) and "from django" not in block:
                exec(code, namespace)
                ran += 1
        assert ran >= 4 or path.parent != DOCS or path.stem not in GUIDES, path
        for name in ("scheduler", "client", "server"):
            if name in namespace:
                closing = namespace[name].close()
                if inspect.iscoroutine(closing):  # of an async facade
                    asyncio.run(closing)


def test_the_first_program_prints_what_the_page_says(capsys):
    """The first program of docs/start.rst has at most 25 lines and prints the text below it."""
    program = blocks("python", DOCS / "start.rst")[0]
    exec(compile(program, "start.py", "exec"), {})
    assert capsys.readouterr().out.strip() == blocks("text", DOCS / "start.rst")[0]
    assert len([line for line in program.splitlines() if line]) <= 25


@pytest.mark.parametrize(
    "module",
    [
        "asimov_sync",
        "asimov_sync.aio",
        "asimov_sync.display",
        "asimov_sync.integrations.celery",
        "asimov_sync.telemetry",
        "asimov_sync.testing",
        "asimov_sync.web",
    ],
)
def test_the_reference_has_every_public_name(module):
    """The API reference describes each name of the module's __all__ once, and no other name."""
    directive = re.compile(
        r"^\.\. (?:currentmodule:: (\S+)"
        r"|(?:auto(?:class|exception|function|data)|py:data):: (\w+))$",
        re.M,
    )
    described = []
    for path in sorted((DOCS / "reference").glob("*.rst")):
        current = None
        for named, name in directive.findall(path.read_text(encoding="utf-8")):
            current = named or current
            if name and current == module:
                described.append(name)
    assert sorted(described) == sorted(importlib.import_module(module).__all__)


def test_the_page_of_errors_has_every_error():
    """docs/errors.rst has an entry for each public error."""
    text = (DOCS / "errors.rst").read_text(encoding="utf-8")
    explained = re.findall(r"^:exc:`~asimov_sync\.(\w+)`$", text, re.M)
    public = [getattr(asimov_sync, name) for name in asimov_sync.__all__]
    names = [
        error.__name__
        for error in public
        if isinstance(error, type) and issubclass(error, Exception)
    ]
    assert sorted(explained) == sorted(names)


def test_the_lines_of_the_prose_are_short():
    """A line of prose has at most 100 characters. Lines of code and of tables may have more."""
    for path in [README] + sorted(DOCS.rglob("*.rst")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.startswith("    ") and not re.search(r"   \S|^=", line):
                assert len(line) <= 100, f"{path.name}:{number}"


def test_no_code_block_is_overlooked():
    """Every block names its language, and `blocks` finds every Python block."""
    for path in [README] + sorted(DOCS.rglob("*.rst")):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^ *\.\. code-block:: (\w+)$", text, re.M)
        assert set(found) <= {"console", "javascript", "python", "sh", "text"}, path
        assert found.count("python") == len(blocks("python", path)), path
        assert not re.search(r"^(?! *\.\. ).*::$", text, re.M), path


def test_the_table_of_statuses_is_the_one_that_holds():
    """The table of transitions in the guide equals the table in the docstring of tasks.py."""
    lines = tasks.__doc__.splitlines()
    table = [number for number, line in enumerate(lines) if line.startswith("====")]
    guide = (DOCS / "graph.rst").read_text(encoding="utf-8")
    assert "\n".join(lines[table[0] : table[2] + 1]) in guide


def installed(block):
    """Return whether the web frameworks that a block imports are installed."""
    frameworks = re.findall(
        r"^(?:from|import) (flask|django|celery|distributed|rq|streamlit|tqdm)\b", block, re.M
    )
    return all(importlib.util.find_spec(framework) for framework in frameworks)
