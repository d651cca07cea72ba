"""What is to be done: a Task, its status, and the one table of moves between statuses.

==========  =====================================  ==========================================
from        to                                     when
==========  =====================================  ==========================================
WAITING     EXECUTING                              its dependencies are done
WAITING     FAILED                                 it cannot be started at all
EXECUTING   COMPLETE, PARTIAL, FAILED              its handler returned, or raised
EXECUTING   WAITING                                it is to be tried again, or was undone
the ends    WAITING                                a new run, or a loop, starts it afresh
==========  =====================================  ==========================================
"""

import copy
import enum
import uuid
from typing import Any, Dict, FrozenSet, Generator, NamedTuple, Optional, Tuple

from pydantic import BaseModel, ConfigDict, Field, model_serializer

from asimov_sync.errors import IllegalTransition

__all__ = ["Task", "TaskSnapshot", "TaskStatus"]


class TaskStatus(str, enum.Enum):
    """Where a task stands."""

    WAITING = "waiting"
    EXECUTING = "executing"
    COMPLETE = "complete"
    FAILED = "failed"
    PARTIAL = "partial"

    @property
    def settled(self) -> bool:
        """Whether it is an end: COMPLETE, FAILED or PARTIAL."""
        return self in _ENDS

    # The one of str, and so the one of its value: Enum's own is neither fast nor what `==` says.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        # Before Python 3.12 a str enum formats as its value, whatever its __str__ says.
        return format(self.name, spec)


_ENDS = frozenset([TaskStatus.COMPLETE, TaskStatus.FAILED, TaskStatus.PARTIAL])

MOVES: Dict[TaskStatus, FrozenSet[TaskStatus]] = {
    TaskStatus.WAITING: frozenset([TaskStatus.EXECUTING, TaskStatus.FAILED]),
    TaskStatus.EXECUTING: _ENDS | {TaskStatus.WAITING},
    TaskStatus.COMPLETE: frozenset([TaskStatus.WAITING]),
    TaskStatus.FAILED: frozenset([TaskStatus.WAITING]),
    TaskStatus.PARTIAL: frozenset([TaskStatus.WAITING]),
}
"""The statuses that each status may move to."""

_OUTCOME = ("status", "result", "error")


class TaskSnapshot(NamedTuple):
    """A task's status, result and error, as they stood at one moment."""

    status: TaskStatus
    result: Any
    error: Optional[str]


class Task(BaseModel):
    """A piece of work: its type chooses the handler, its objective and params say what to do.

    status, result and error change together, through `move` alone; `snapshot()`, copies, pickles, `dict(task)` and JSON never
    show one of them without the others, whatever other threads do. Fields that are read one after the other may be of several
    moments, and so may a repr.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True)

    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    type: str
    objective: str = ""
    params: Dict[str, Any] = Field(default_factory=dict)
    status: TaskStatus = TaskStatus.WAITING
    result: Any = None
    error: Optional[str] = None

    def move(self, status: TaskStatus, result: Any = None, error: Optional[str] = None) -> None:
        """Go to `status` with this result and error; IllegalTransition if the table has no such move."""
        values = self.__dict__
        if status not in MOVES[values["status"]]:
            raise IllegalTransition(
                "task {!r} cannot go from {} to {}".format(self.objective or self.type, values["status"], status)
            )
        # One C call on a dict with str keys: no other thread runs in between. The old values are held until it is done,
        # because dropping the last reference to a result may run its destructor, and with it anything.
        held = (values["result"], values["error"])
        values.update(status=status, result=result, error=error)
        del held
        fields = self.__pydantic_fields_set__
        fields.add("status")
        if result is not None:
            fields.add("result")
        if error is not None:
            fields.add("error")

    def snapshot(self) -> TaskSnapshot:
        """Status, result and error of one moment."""
        values = self.__dict__.copy()
        return TaskSnapshot(values["status"], values["result"], values["error"])

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OUTCOME:
            raise IllegalTransition("a task's {} is set by task.move(status, result=…, error=…) only".format(name))
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: Optional[Dict[int, Any]] = None) -> "Task":
        frozen = copy.copy(self)
        return super(Task, frozen).__deepcopy__(memo)

    def __getstate__(self) -> Dict[Any, Any]:
        # What this returns is pickled piece by piece, while other threads have their turn.
        return super(Task, copy.copy(self)).__getstate__()

    def __iter__(self) -> Generator[Tuple[str, Any], None, None]:
        return super(Task, copy.copy(self)).__iter__()

    @model_serializer(mode="wrap")
    def _serialise_one_moment(self, handler: Any) -> Dict[str, Any]:
        # A subclass instance that is serialised as a plain Task arrives here too; a copy keeps its class.
        return handler(copy.copy(self))  # type: ignore[no-any-return]
