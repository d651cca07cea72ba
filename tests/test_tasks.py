"""Tasks: the table of status changes, and that status, result and error always belong together."""

import copy
import itertools
import json
import pickle
import sys
import threading

import pytest
from pydantic import BaseModel

from asimov_sync import IllegalTransition, Task, TaskStatus
from asimov_sync.tasks import TRANSITIONS


def task_in(status):
    task = Task(type="t", objective="o")
    if status is not TaskStatus.WAITING:
        task.move(TaskStatus.EXECUTING)
    if status.is_final:
        task.move(status, result=1, error="e")
    return task


def test_a_new_task_waits():
    """A task is made of a type, an objective and params. It is WAITING and has an id of its own."""
    task = Task(type="processing", objective="Process data", params={"input": "data"})
    assert (task.status, task.result, task.error) == (TaskStatus.WAITING, None, None)
    assert task.id != Task(type="processing", objective="Process data").id


def test_final_statuses():
    """COMPLETE, FAILED and PARTIAL are final, WAITING and EXECUTING are not."""
    final = [status for status in TaskStatus if status.is_final]
    assert final == [TaskStatus.COMPLETE, TaskStatus.FAILED, TaskStatus.PARTIAL]


@pytest.mark.parametrize("before, after", list(itertools.product(TaskStatus, TaskStatus)), ids=str)
def test_moves_follow_the_table(before, after):
    """A move in the table is made. Any other raises, names both statuses and changes nothing."""
    task = task_in(before)
    if after in TRANSITIONS[before]:
        task.move(after, result="r")
        assert task.snapshot() == (after, "r", None)
    else:
        snapshot = task.snapshot()
        with pytest.raises(IllegalTransition, match=f"{before.name}.*{after.name}"):
            task.move(after)
        assert task.snapshot() == snapshot


@pytest.mark.parametrize("field", ["status", "result", "error"])
def test_the_outcome_cannot_be_assigned(field):
    """Assigning status, result or error raises and names `move`."""
    with pytest.raises(IllegalTransition, match="move"):
        setattr(Task(type="t"), field, TaskStatus.COMPLETE)


def test_a_misspelled_field_is_an_error():
    """An unknown field is rejected."""
    with pytest.raises(ValueError, match="objetive"):
        Task(type="t", objetive="o")


@pytest.mark.parametrize("status", list(TaskStatus), ids=str)
def test_json_copies_and_pickles_are_complete(status):
    """A task in any status equals its copies, and the tasks read from its JSON and pickle."""
    task = task_in(status)
    for duplicate in (
        Task.model_validate_json(task.model_dump_json()),
        Task.model_validate(task.model_dump()),
        copy.copy(task),
        copy.deepcopy(task),
        task.model_copy(),
        task.model_copy(deep=True),
        pickle.loads(pickle.dumps(task)),
        Task(**dict(task)),
    ):
        assert duplicate == task
        assert duplicate.snapshot() == task.snapshot()


def test_a_deep_copy_shares_nothing():
    """Changing the params of a deep copy leaves the original unchanged."""
    task = Task(type="t", params={"list": [1]})
    copy.deepcopy(task).params["list"].append(2)
    assert task.params == {"list": [1]}


class MovesWhenPickled:
    """A result that moves its task while it is being pickled."""

    def __init__(self, task):
        self.task = task

    def __reduce__(self):
        self.task.move(TaskStatus.WAITING)
        return str, ("pickled",)


def test_a_pickle_belongs_to_one_moment():
    """A task that moves while it is pickled is pickled in its first state, with every protocol."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        task = Task(type="t")
        task.move(TaskStatus.EXECUTING)
        task.move(TaskStatus.PARTIAL, MovesWhenPickled(task), "half")
        unpickled = pickle.loads(pickle.dumps(task, protocol))
        assert unpickled.snapshot() == (TaskStatus.PARTIAL, "pickled", "half")
        assert task.status is TaskStatus.WAITING


def test_a_subclass_keeps_its_fields_in_json():
    """The JSON of a subclass has its own fields."""

    class Priced(Task):
        price: int = 3

    assert json.loads(Priced(type="t").model_dump_json())["price"] == 3


def test_no_torn_reads():
    """Snapshots, copies and JSON made by other threads always pair a status with its own result and
    error."""
    task = Task(type="t")
    stop = threading.Event()
    torn = []
    reads = [0, 0, 0]

    def is_consistent(status, result, error):
        if status is TaskStatus.COMPLETE:
            return result == "done" and error is None
        if status is TaskStatus.FAILED:
            return result is None and error == "failed"
        return result is None and error is None

    def read(kind):
        while not stop.is_set():
            if kind == 0:
                seen = task.snapshot()
            elif kind == 1:
                duplicate = copy.copy(task)
                seen = (duplicate.status, duplicate.result, duplicate.error)
            else:
                values = json.loads(task.model_dump_json())
                seen = (TaskStatus(values["status"]), values["result"], values["error"])
            reads[kind] += 1
            if not is_consistent(*seen):
                torn.append(seen)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        readers = [threading.Thread(target=read, args=(kind,)) for kind in range(3)]
        for reader in readers:
            reader.start()
        for number in range(4000):
            task.move(TaskStatus.EXECUTING)
            if number % 2:
                task.move(TaskStatus.COMPLETE, result="done")
            else:
                task.move(TaskStatus.FAILED, error="failed")
            task.move(TaskStatus.WAITING)
        stop.set()
        for reader in readers:
            reader.join()
    finally:
        sys.setswitchinterval(interval)
    assert torn == []
    assert min(reads) > 0


def test_a_status_shows_what_compares_equal():
    """str(), format(), JSON and `==` agree on every Python; the name is in capital letters."""
    complete = TaskStatus.COMPLETE
    assert complete == "complete" == str(complete) == f"{complete}"
    assert repr(complete) == "<TaskStatus.COMPLETE: 'complete'>" and f"{complete:>9}" == " complete"
    assert json.dumps(complete) == '"complete"' and complete.name == "COMPLETE"
    assert complete != "COMPLETE" and {complete: 1}["complete"] == 1


class Page(BaseModel):
    """A model, which JSON can hold."""

    text: str


@pytest.mark.parametrize(
    "write", [Task.model_dump_json, lambda task: json.dumps(task.model_dump(mode="json"))]
)
def test_json_of_a_task_with_any_object(write):
    """An object that JSON cannot hold is its repr, as in events; the others stay as they are."""
    cycle = []
    cycle.append(cycle)
    task = Task(type="t", params={"object": threading, "cycle": cycle, "page": Page(text="p")})
    task.move(TaskStatus.EXECUTING)
    task.move(TaskStatus.COMPLETE, result=[Page(text="r"), threading, b"\xff"])
    values = json.loads(write(task))
    assert values["params"] == {
        "object": repr(threading),
        "cycle": "[[...]]",
        "page": {"text": "p"},
    }
    assert values["result"] == [{"text": "r"}, repr(threading), "_w=="]
    assert task.result[1] is threading and task.model_dump()["result"][1] is threading
    assert Task.model_validate_json(write(task)).status is TaskStatus.COMPLETE


def test_the_repr_has_only_what_is_set():
    """The repr leaves out the id, and the fields that are empty."""
    task = Task(type="read", objective="Read it")
    assert repr(task) == "Task(type='read', objective='Read it')"
    task.move(TaskStatus.EXECUTING)
    task.move(TaskStatus.FAILED, error="no such page")
    assert repr(task).endswith("status=<TaskStatus.FAILED: 'failed'>, error='no such page')")
