"""The code blocks of README.rst and of the documentation are executed."""

import asyncio
import importlib
import importlib.util
import inspect
import logging
import os
import pathlib
import re
import subprocess
import sys
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
    "durability",
    "graph",
    "inference",
    "processes",
    "recipes",
    "telemetry",
    "testing",
}
OTHER_PAGES = {"changes", "contributing", "errors", "index", "migrating", "start"}


def blocks(language, path=README):
    """Return the code blocks of a language in a file, including those in lists."""
    pattern = rf"^( *)\.\. code-block:: {language}\n\n((?:\1    .*\n| *\n)+)"
    found = re.findall(pattern, path.read_text(encoding="utf-8"), re.M)
    return [textwrap.dedent(block).strip() for _, block in found]


def test_the_python_blocks_run(capsys):
    """The Python blocks run, one after the other, and their asserts hold."""
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

    Blocks that need a Redis cluster or Django are only compiled; another test runs those for
    Django. A block that imports Flask runs if Flask is installed.
    """
    paths = sorted(DOCS.rglob("*.rst"))
    assert {path.stem for path in paths if path.parent == DOCS} == GUIDES | OTHER_PAGES
    for path in paths:
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
    "module", ["asimov_sync", "asimov_sync.aio", "asimov_sync.telemetry", "asimov_sync.testing"]
)
def test_the_reference_has_every_public_name(module):
    """The API reference describes each name of the module's __all__ once, and no other name."""
    directive = re.compile(
        r"^\.\. (?:currentmodule:: (\S+)|auto(?:class|exception|function|data):: (\w+))$", re.M
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
        assert set(found) <= {"python", "console", "sh", "text"}, path
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
    frameworks = re.findall(r"^from (flask|django)", block, re.M)
    return all(importlib.util.find_spec(framework) for framework in frameworks)


# A Django project for the recipe. The command line sets TASK_WORKERS and the database's path.
SITE = """
import sys
import django
from django.conf import settings

settings.configure(
    TASK_WORKERS=int(sys.argv[1]),
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": sys.argv[2],
            "TEST": {"NAME": sys.argv[2] + ".test"},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    USE_TZ=True,
)
django.setup()
"""
VIEW = """
from django.core.management import call_command

call_command("migrate", verbosity=0)
User.objects.create(username="ada")
assert users(None).content == b'{"active": 1, "gone": 0}', users(None).content
"""
TESTS = """
from django.test.runner import DiscoverRunner

DiscoverRunner(interactive=False).run_tests(["__main__"])
"""


def test_the_recipe_for_django_runs(tmp_path):
    """The view reads the database on threads. Its TestCase passes only on the test's own thread."""
    recipe = [block for block in blocks("python", DOCS / "recipes.rst") if "from django" in block]
    assert len(recipe) == 2
    if not installed(recipe[0]):
        return

    def done(workers, *parts):
        program = tmp_path / "site.py"
        program.write_text("\n".join(parts), encoding="utf-8")
        command = [
            sys.executable,
            str(program),
            str(workers),
            str(tmp_path / f"database{workers}"),
        ]
        env = dict(
            os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        )
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            encoding="utf-8",
            timeout=120,
        )

    view = done(8, SITE, recipe[0], VIEW)
    assert view.returncode == 0, view.stderr
    on_the_thread = done(0, SITE, *recipe, TESTS).stderr
    assert "Ran 1 test" in on_the_thread and "OK" in on_the_thread
    on_threads = done(8, SITE, *recipe, TESTS).stderr
    assert "Ran 1 test" in on_threads and "FAILED (failures=1)" in on_threads
