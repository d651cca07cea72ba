"""Every code block of README.rst does what it says, and those of the documentation run."""

import asyncio
import importlib.util
import inspect
import os
import pathlib
import re
import subprocess
import sys
import textwrap

from asimov_sync import tasks

from .tiers import suite

pytestmark = suite

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.rst"


def blocks(language, path=README):
    """The code blocks of a language in a file, but for those inside of lists."""
    pattern = r"^\.\. code-block:: {}\n\n((?:    .*\n|\n)+)".format(language)
    return [textwrap.dedent(block).strip() for block in re.findall(pattern, path.read_text(encoding="utf-8"), re.M)]


def test_the_python_blocks_run(capsys):
    """The Python blocks run, one after the other, and their asserts hold."""
    python = blocks("python")
    assert len(python) >= 7
    namespace = {}
    for number, block in enumerate(python):
        exec(compile(block, "README.rst, block {}".format(number + 1), "exec"), namespace)
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


def test_the_documentation_runs():
    """The Python blocks of the documentation run, one after the other, but for those that need servers of their own.

    What needs a web framework runs where that is installed, Django's below; all else is compiled.
    """
    for path in sorted((ROOT / "docs").glob("*.rst")):
        namespace = {"__name__": "__main__"}  # Flask looks for the folder of its module
        ran = 0
        for number, block in enumerate(blocks("python", path)):
            code = compile(block, "{}, block {}".format(path.name, number + 1), "exec")
            if "RedisCluster(" not in block and installed(block) and "from django" not in block:
                exec(code, namespace)
                ran += 1
        assert ran >= 4, path
        for name in ("scheduler", "client", "server"):
            if name in namespace:
                closing = namespace[name].close()
                if inspect.iscoroutine(closing):  # of an async facade
                    asyncio.run(closing)


def test_the_table_of_statuses_is_the_one_that_holds():
    """The guide's table of moves is that of the module, line by line."""
    lines = tasks.__doc__.splitlines()
    table = [number for number, line in enumerate(lines) if line.startswith("====")]
    guide = (ROOT / "docs" / "graph.rst").read_text(encoding="utf-8")
    assert "\n".join(lines[table[0] : table[2] + 1]) in guide


def installed(block):
    """Whether the web frameworks that a block imports are there."""
    frameworks = re.findall(r"^from (flask|django)", block, re.M)
    return all(importlib.util.find_spec(framework) for framework in frameworks)


# What a Django project has around the recipe: settings with TASK_WORKERS from the command line, and a database with tables.
SITE = """
import sys
import django
from django.conf import settings

settings.configure(
    TASK_WORKERS=int(sys.argv[1]),
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[2], "TEST": {"NAME": sys.argv[2] + ".test"}}
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
    """The view answers from the database on threads, and its TestCase passes on the test's own thread, and only there."""
    recipe = [block for block in blocks("python", ROOT / "docs" / "recipes.rst") if "from django" in block]
    assert len(recipe) == 2
    if not installed(recipe[0]):
        return

    def done(workers, *parts):
        program = tmp_path / "site.py"
        program.write_text("\n".join(parts), encoding="utf-8")
        command = [sys.executable, str(program), str(workers), str(tmp_path / "database{}".format(workers))]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, encoding="utf-8", timeout=120)

    view = done(8, SITE, recipe[0], VIEW)
    assert view.returncode == 0, view.stderr
    on_the_thread = done(0, SITE, *recipe, TESTS).stderr
    assert "Ran 1 test" in on_the_thread and "OK" in on_the_thread
    on_threads = done(8, SITE, *recipe, TESTS).stderr
    assert "Ran 1 test" in on_threads and "FAILED (failures=1)" in on_threads
