"""Tasks: a unit of work, its status, and the table of allowed status changes.

==========  =====================================  ==========================================
from        to                                     when
==========  =====================================  ==========================================
WAITING     EXECUTING                              its dependencies have finished
WAITING     FAILED                                 it cannot be started at all
WAITING     COMPLETE, PARTIAL, FAILED              its stored outcome is restored
EXECUTING   COMPLETE, PARTIAL, FAILED              its handler returned or raised
EXECUTING   WAITING                                it is retried or parks, or a loop undoes it
final       WAITING                                a new run or a loop starts it again
==========  =====================================  ==========================================
"""

import copy
import enum
import uuid
from typing import Any, Dict, FrozenSet, Generator, List, NamedTuple, Optional, Tuple

from pydantic import ConfigDict, Field, model_serializer

from asimov_sync._json import to_jsonable
from asimov_sync._models import LazyModel
from asimov_sync.errors import IllegalTransition

__all__ = ["Task", "TaskSnapshot", "TaskStatus"]


class TaskStatus(str, enum.Enum):
    """The status of a task, or of a run.

    A status is a string: `str(status)`, its JSON and `status == "complete"` show the same value.
    Its name, in capital letters, is `status.name`.
    """

    WAITING = "waiting"
    EXECUTING = "executing"
    COMPLETE = "complete"
    FAILED = "failed"
    PARTIAL = "partial"

    @property
    def is_final(self) -> bool:
        """True for COMPLETE, FAILED and PARTIAL."""
        return self in _FINAL

    # The hash of str, which equals the hash of the value. Enum's own hash is slow and inconsistent
    # with `==`.
    __hash__ = str.__hash__

    # Enum's own methods return "TaskStatus.COMPLETE" on some Pythons. `__str__ = str.__str__` would
    # be undone by Enum before Python 3.12.
    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


_FINAL = frozenset([TaskStatus.COMPLETE, TaskStatus.FAILED, TaskStatus.PARTIAL])

TRANSITIONS: Dict[TaskStatus, FrozenSet[TaskStatus]] = {
    TaskStatus.WAITING: _FINAL | {TaskStatus.EXECUTING},
    TaskStatus.EXECUTING: _FINAL | {TaskStatus.WAITING},
    TaskStatus.COMPLETE: frozenset([TaskStatus.WAITING]),
    TaskStatus.FAILED: frozenset([TaskStatus.WAITING]),
    TaskStatus.PARTIAL: frozenset([TaskStatus.WAITING]),
}
"""For each status, the statuses that a task may move to."""

_OUTCOME_FIELDS = ("status", "result", "error")


class TaskSnapshot(NamedTuple):
    """Status, result and error of a task at one moment."""

    status: TaskStatus
    result: Any
    error: Optional[str]


class Task(LazyModel):
    """A unit of work. Its type selects the handler; objective and params describe the work.

    id: a random UUID by default.
    type: the name of the handler.
    objective: what to do, in words; empty by default.
    params: arguments for the handler, by name; empty by default.
    status, result, error: the outcome so far. Only `move` changes them, all three at once.

    `snapshot()`, copies, pickles, `dict(task)` and JSON show status, result and error of one
    moment, even while other threads move the task. Fields that are read one after the other, and a
    repr, may belong to different moments. In JSON, an object that JSON cannot hold becomes its
    repr, as in events.
    """

    model_config = ConfigDict(extra="forbid")

    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    type: str
    objective: str = ""
    params: Dict[str, Any] = Field(default_factory=dict)
    status: TaskStatus = TaskStatus.WAITING
    result: Any = None
    error: Optional[str] = None

    def move(self, status: TaskStatus, result: Any = None, error: Optional[str] = None) -> None:
        """Change the status, the result and the error in one atomic step.

        status: the new status.
        result: the new result; None by default.
        error: the new error message; None by default.

        Raises IllegalTransition if the table has no such change.
        """
        values = self.__dict__
        if status not in TRANSITIONS[values["status"]]:
            name = self.objective or self.type
            old_name = values["status"].name
            new_name = status.name if isinstance(status, TaskStatus) else repr(status)
            raise IllegalTransition(f"task {name!r} cannot go from {old_name} to {new_name}")
        # One C call on a dict with str keys, so no other thread runs in between. The old values
        # stay referenced until the call is done: releasing the last reference to a result may run
        # its destructor, which is arbitrary code.
        old_values = (values["result"], values["error"])
        values.update(status=status, result=result, error=error)
        del old_values
        fields = self.__pydantic_fields_set__
        fields.add("status")
        if result is not None:
            fields.add("result")
        if error is not None:
            fields.add("error")

    def snapshot(self) -> TaskSnapshot:
        """Return status, result and error of one moment."""
        values = self.__dict__.copy()
        return TaskSnapshot(values["status"], values["result"], values["error"])

    def __hash__(self) -> int:
        raise TypeError(
            "a Task cannot be a key, since it changes: use its name, as in "
            "context.inputs['fetch'] and result.results['fetch']; result[task] takes a Task"
        )

    def copy_with(self, update: Dict[str, Any]) -> "Task":
        """Return a copy with some fields replaced, which are not validated.

        The same as `model_copy(update=update)`, in half the time.

        update: the new values by field name.
        """
        if type(self) is not Task or self.__pydantic_extra__ or self.__pydantic_private__:
            return self.model_copy(update=update)
        copied = Task.__new__(Task)
        values, fields_set = self.__dict__.copy(), self.__pydantic_fields_set__.copy()
        if update:
            values.update(update)
            fields_set.update(update)
        set_attribute = object.__setattr__
        set_attribute(copied, "__dict__", values)
        set_attribute(copied, "__pydantic_fields_set__", fields_set)
        set_attribute(copied, "__pydantic_extra__", None)
        set_attribute(copied, "__pydantic_private__", None)
        return copied

    def __repr_args__(self) -> List[Tuple[Optional[str], Any]]:
        """Leave the id and what is not set out of the repr."""
        return [
            (name, value)
            for name, value in self.__dict__.copy().items()
            if name != "id"
            and value is not None
            and value is not TaskStatus.WAITING
            and (value or name not in ("objective", "params"))
        ]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OUTCOME_FIELDS:
            raise IllegalTransition(
                f"a task's {name} is set by task.move(status, result=…, error=…) only"
            )
        super().__setattr__(name, value)

    # Each method below works on a shallow copy, because other threads may move the task while it
    # runs.

    def __deepcopy__(self, memo: Optional[Dict[int, Any]] = None) -> "Task":
        frozen = copy.copy(self)
        return super(Task, frozen).__deepcopy__(memo)

    def __getstate__(self) -> Dict[Any, Any]:
        return super(Task, copy.copy(self)).__getstate__()

    def __iter__(self) -> Generator[Tuple[str, Any], None, None]:
        return super(Task, copy.copy(self)).__iter__()

    @model_serializer(mode="wrap")
    def _serialize_copy(self, handler: Any, info: Any) -> Dict[str, Any]:
        # Also called for a subclass instance that is serialized as a plain Task; a copy keeps its
        # class.
        frozen = copy.copy(self)
        try:
            return handler(frozen)  # type: ignore[no-any-return]
        except ValueError:  # an object that JSON cannot hold, or a cycle
            if info.mode != "json":
                raise
            values = frozen.__dict__
            params = {name: to_jsonable(value) for name, value in values["params"].items()}
            values.update(params=params, result=to_jsonable(values["result"]))
            return handler(frozen)  # type: ignore[no-any-return]
