"""Inputs: the results of a task's dependencies, as its handler finds them."""

from typing import Any, Dict, Tuple

__all__ = ["Inputs"]


class Inputs(Dict[str, Any]):
    """A dict of results by name, whose KeyError says what to do. Copies and pickles are dicts.

    task_name: the name of the task that has these inputs.
    """

    __slots__ = ("task_name",)

    task_name: str

    def __missing__(self, name: object) -> Any:
        inputs = ", ".join(map(repr, self)) or "none"
        raise KeyError(
            f"{self.task_name!r} has no input {name!r} (its inputs: {inputs}); "
            f"declare the dependency with depends_on={name!r}; a declared one without a result is "
            "in context.failed or context.skipped"
        )

    def __reduce__(self) -> Tuple[Any, ...]:
        return dict, (dict(self),)
