"""Lazy exports: the names of a package, each loaded from its module on first use (PEP 562).

A package lists its names twice. Type checkers and editors read the imports under TYPE_CHECKING, the
interpreter reads the table that is passed to `export_lazily`. A test compares the two.
"""

import sys
from importlib import import_module
from typing import Any, Callable, Dict, List, Tuple

Exports = Tuple[Callable[[str], Any], Callable[[], List[str]], List[str]]


def export_lazily(package: str, names_by_module: Dict[str, str]) -> Exports:
    """Return `__getattr__`, `__dir__` and `__all__` of a package whose names load on first use.

    package: the package's `__name__`.
    names_by_module: for each module, relative to the package, its exported names, separated by
        blanks.
    """
    namespace = vars(sys.modules[package])
    modules = {name: module for module, names in names_by_module.items() for name in names.split()}
    exported = sorted(modules, key=lambda name: (name.casefold(), name))

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        namespace[name] = value  # the next use finds it without this function
        return value

    def __dir__() -> List[str]:
        return sorted({*namespace, *exported})

    return __getattr__, __dir__, exported
