"""Each recipe of docs/recipes.rst runs by itself, as if pasted into a new program."""

import importlib.util
import logging
import os
import re
import subprocess
import sys

import pytest

from .test_readme import DOCS, ROOT, blocks_in, installed
from .tiers import suite

pytestmark = suite


def read_recipes():
    """Return the Python blocks of each section of the page, by its title."""
    text = (DOCS / "recipes.rst").read_text(encoding="utf-8")
    parts = re.split(r"^(\S.*)\n-{4,}\n", text, flags=re.M)
    return {title: blocks_in(part, "python") for title, part in zip(parts[1::2], parts[2::2])}


RECIPES = read_recipes()

HOSTED = {"Django", "Streamlit"}
"""The recipes that run inside another program; they have tests of their own."""


@pytest.fixture
def library_logger():
    """The logger of the recipe for logging, without the handlers that the recipe adds."""
    logger = logging.getLogger("library")
    yield logger
    logger.handlers.clear()


@pytest.mark.parametrize("title", sorted(set(RECIPES) - HOSTED))
def test_recipe_runs_by_itself(title, library_logger):
    """The blocks of a recipe are a whole program, whose asserts hold.

    One that needs a package which is not installed is only compiled (`tox -e progress` has tqdm).
    """
    program = "\n\n".join(RECIPES[title])
    code = compile(program, f"recipes.rst, {title}", "exec")
    if not installed(program):
        return
    namespace = {"__name__": "__main__"}  # Flask looks for the folder of its module
    exec(code, namespace)
    for name in ("scheduler", "client", "server"):
        if name in namespace:
            namespace[name].close()


def test_the_recipe_for_streamlit_runs():
    """A click runs the graph and shows its results; a question shows the streamed answer.

    Where Streamlit is not installed, the recipe is only compiled (`tox -e streamlit` has it).
    """
    (script,) = RECIPES["Streamlit"]
    compile(script, "recipes.rst, Streamlit", "exec")
    if importlib.util.find_spec("streamlit") is None:
        return
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_string(script, default_timeout=30).run()
    app.button[0].click().run()
    assert not app.exception
    assert app.session_state.results["region[2]"] == "rain in the west"
    app.text_input[0].input("How is the weather?").run()
    assert not app.exception
    assert [element.value for element in app.markdown] == ["It rains."]


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
    recipe = RECIPES["Django"]
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
    assert "Ran 2 tests" in on_the_thread and "OK" in on_the_thread
    on_threads = done(8, SITE, *recipe, TESTS).stderr
    assert "Ran 2 tests" in on_threads and "FAILED (" in on_threads
