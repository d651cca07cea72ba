"""The public names are complete, sorted and documented, and are loaded on first use."""

import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

import asimov_sync
import asimov_sync.errors
import asimov_sync.testing
from tests.test_layers import PACKAGE, exports_of


def public_modules():
    home = pathlib.Path(asimov_sync.__file__).parent
    for path in sorted(home.rglob("*.py")):
        yield importlib.import_module(
            ".".join(("asimov_sync",) + path.relative_to(home).with_suffix("").parts).replace(
                ".__init__", ""
            )
        )


def lazy_packages():
    return [
        module
        for module in public_modules()
        if hasattr(module, "export_lazily") and hasattr(module, "__path__")
    ]


def test_each_table_of_exports_is_in_use():
    """All the packages whose names load lazily use the same helper."""
    assert len(lazy_packages()) >= 8
    home = pathlib.Path(asimov_sync.__file__).parent
    for path in home.rglob("*.py"):
        assert path.name == "_exports.py" or "def __getattr__(name" not in path.read_text("utf-8")


@pytest.mark.parametrize("package", lazy_packages(), ids=lambda module: module.__name__)
def test_every_exported_name_is_there(package):
    """The names are in alphabetical order, whatever their case. Each loads, and dir() shows it."""
    assert package.__all__ == sorted(package.__all__, key=lambda name: (name.casefold(), name))
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


@pytest.mark.parametrize("package", lazy_packages(), ids=lambda module: module.__name__)
def test_type_checkers_see_the_same_names(package):
    """The imports under TYPE_CHECKING are the names of __all__, each from the same module."""
    imported = exports_of(pathlib.Path(package.__file__), PACKAGE)
    assert sorted(imported) == sorted(package.__all__)
    for name, module in imported.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)


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
    """`import asimov_sync` loads two files and no pydantic; the graph loads no network library."""
    program = (
        "import sys, asimov_sync\n"
        "loaded = [name for name in sys.modules if name.startswith('asimov_sync.')]\n"
        "assert loaded == ['asimov_sync._exports'], loaded\n"
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
