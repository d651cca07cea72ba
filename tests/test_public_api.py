"""The public names are complete, sorted and documented, and are loaded on first use."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

import asimov_sync
import asimov_sync.errors
import asimov_sync.testing


def public_modules():
    home = pathlib.Path(asimov_sync.__file__).parent
    for path in sorted(home.rglob("*.py")):
        yield importlib.import_module(
            ".".join(("asimov_sync",) + path.relative_to(home).with_suffix("").parts).replace(
                ".__init__", ""
            )
        )


def test_all_is_sorted():
    """The names are in alphabetical order; case is ignored."""
    assert asimov_sync.__all__ == sorted(
        asimov_sync.__all__, key=lambda name: (name.casefold(), name)
    )


def test_every_name_is_there():
    """Each name of __all__ can be imported, and dir() shows it."""
    for name in asimov_sync.__all__:
        assert getattr(asimov_sync, name) is not None
        assert name in dir(asimov_sync)


def test_the_type_checker_sees_the_same_names():
    """The imports under TYPE_CHECKING are the names of __all__, each from the same module."""
    tree = ast.parse(inspect.getsource(asimov_sync))
    seen = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("asimov_sync.")
        ):
            seen.update({alias.asname: node.module for alias in node.names})
    assert seen == {name: "asimov_sync." + home for name, home in asimov_sync._HOME.items()}


def test_every_error_is_exported():
    """Every exception of asimov_sync.errors is a public name."""
    errors = {
        name
        for name, value in vars(asimov_sync.errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }
    assert errors <= set(asimov_sync.__all__)


def test_an_unknown_name_is_an_attribute_error():
    """A typo fails as it does in any module."""
    with pytest.raises(AttributeError, match="Tsak"):
        asimov_sync.Tsak
    with pytest.raises(ImportError):
        from asimov_sync import Tsak  # noqa: F401


@pytest.mark.parametrize("module", list(public_modules()), ids=lambda module: module.__name__)
def test_everything_public_is_documented(module):
    """Modules have a docstring, and so do their public classes, functions and methods."""
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert value.__doc__, name
        for attribute, member in list(vars(value).items()) if inspect.isclass(value) else ():
            function = (
                member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            )
            if inspect.isfunction(function) and not attribute.startswith("_"):
                assert function.__doc__, f"{name}.{attribute}"


def test_the_import_is_light():
    """`import asimov_sync` loads no submodule or pydantic; the graph loads no network library."""
    program = (
        "import sys, asimov_sync\n"
        "assert not [name for name in sys.modules if name.startswith('asimov_sync.')]\n"
        "assert 'pydantic' not in sys.modules\n"
        "import pydantic.main\n"
        "before = set(sys.modules)  # on some Pythons pydantic itself loads asyncio\n"
        "from asimov_sync import Task, TaskGraph, TaskScheduler, MemoryCache\n"
        "heavy = {'requests', 'urllib3', 'redis', 'boto3', 'botocore'}\n"
        "heavy |= {'opentelemetry', 'tenacity', 'asyncio', 'ssl'}\n"
        "heavy &= set(sys.modules) - before\n"
        "assert not heavy, heavy\n"
        "import threading\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.check_call([sys.executable, "-c", program])


def test_the_version_is_that_of_the_changes():
    """CHANGES.rst begins with the version of the package."""
    changes = (
        pathlib.Path(__file__).parent.parent.joinpath("CHANGES.rst").read_text(encoding="utf-8")
    )
    assert asimov_sync.__version__ in changes.split("---")[0]
