"""Tasks: the table of moves, and that status, result and error are never seen apart."""

import copy
import itertools
import json
import pickle
import sys
import threading

import pytest

from asimov_sync import IllegalTransition, Task, TaskStatus
from asimov_sync.tasks import MOVES


def task_in(status):
    task = Task(type="t", objective="o")
    if status is not TaskStatus.WAITING:
        task.move(TaskStatus.EXECUTING)
    if status.settled:
        task.move(status, result=1, error="e")
    return task


def test_the_seed_usage():
    """A task is made of a type, an objective and params, and waits."""
    task = Task(type="processing", objective="Process data", params={"input": "data"})
    assert (task.status, task.result, task.error) == (TaskStatus.WAITING, None, None)
    assert task.id != Task(type="processing", objective="Process data").id


@pytest.mark.parametrize("before, after", list(itertools.product(TaskStatus, TaskStatus)), ids=str)
def test_the_table_of_moves(before, after):
    """A move of the table is made; any other names both statuses and changes nothing."""
    task = task_in(before)
    if after in MOVES[before]:
        task.move(after, result="r")
        assert task.snapshot() == (after, "r", None)
    else:
        told = task.snapshot()
        with pytest.raises(IllegalTransition, match="{}.*{}".format(before.name, after.name)):
            task.move(after)
        assert task.snapshot() == told


@pytest.mark.parametrize("field", ["status", "result", "error"])
def test_the_outcome_is_not_assigned(field):
    """Assigning status, result or error raises, and says what to use."""
    with pytest.raises(IllegalTransition, match="move"):
        setattr(Task(type="t"), field, TaskStatus.COMPLETE)


def test_a_misspelled_field_is_an_error():
    """A task takes no field that it does not have."""
    with pytest.raises(ValueError, match="objetive"):
        Task(type="t", objetive="o")


@pytest.mark.parametrize("status", list(TaskStatus), ids=str)
def test_nothing_is_lost_in_json_copies_and_pickles(status):
    """A task in any status comes back the same from JSON, from a copy, and from another process."""
    task = task_in(status)
    for twin in (
        Task.model_validate_json(task.model_dump_json()),
        Task.model_validate(task.model_dump()),
        copy.copy(task),
        copy.deepcopy(task),
        task.model_copy(),
        task.model_copy(deep=True),
        pickle.loads(pickle.dumps(task)),
        Task(**dict(task)),
    ):
        assert twin == task
        assert twin.snapshot() == task.snapshot()


def test_a_deep_copy_shares_nothing():
    """Changing a deep copy's params leaves the original as it was."""
    task = Task(type="t", params={"list": [1]})
    copy.deepcopy(task).params["list"].append(2)
    assert task.params == {"list": [1]}


class Meddler:
    """A result that has the next one come to the task while it is being pickled itself."""

    def __init__(self, task):
        self.task = task

    def __reduce__(self):
        self.task.move(TaskStatus.WAITING)
        return str, ("meddled",)


def test_a_pickle_is_of_one_moment():
    """A task that moves in the middle of being pickled is pickled as it was at the beginning, on every protocol."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        task = Task(type="t")
        task.move(TaskStatus.EXECUTING)
        task.move(TaskStatus.PARTIAL, Meddler(task), "half")
        assert pickle.loads(pickle.dumps(task, protocol)).snapshot() == (TaskStatus.PARTIAL, "meddled", "half")
        assert task.status is TaskStatus.WAITING


def test_a_subclass_keeps_its_fields_in_json():
    """A task with fields of its own is serialised with them."""

    class Priced(Task):
        price: int = 3

    assert json.loads(Priced(type="t").model_dump_json())["price"] == 3


def test_no_torn_reads():
    """Snapshots, copies and JSON taken by other threads always show a status with its own result and error."""
    task = Task(type="t")
    stop = threading.Event()
    torn = []
    reads = [0, 0, 0]

    def right(status, result, error):
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
                twin = copy.copy(task)
                seen = (twin.status, twin.result, twin.error)
            else:
                told = json.loads(task.model_dump_json())
                seen = (TaskStatus(told["status"]), told["result"], told["error"])
            reads[kind] += 1
            if not right(*seen):
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


def test_a_status_is_told_by_its_name():
    """In a message a status is its name, on every Python; in JSON it is lower case."""
    assert "{} {!s}".format(TaskStatus.COMPLETE, TaskStatus.FAILED) == "COMPLETE FAILED"
    assert json.dumps(TaskStatus.COMPLETE) == '"complete"'
