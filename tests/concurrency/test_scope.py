"""The scope: one immutable record for each context."""

import contextvars
import gc

import pytest

from asimov_sync import Cancellation
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.scope import Scope
from asimov_sync.usage import Budget, UsageCounter

from ..waiting import Background


@pytest.fixture(autouse=True)
def own_scope():
    """Restore the scope after each test."""
    before = scope.current()
    yield
    scope.replace(**before._asdict())


def in_copy(function, *args):
    return contextvars.copy_context().run(function, *args)


def test_the_default():
    """An empty context has an empty scope."""
    assert contextvars.Context().run(scope.current) == Scope(None, (), (), (), (), False)


def test_extend_appends():
    """extend appends to any number of fields and leaves the others unchanged."""
    scope.extend(usage_counter="a", budget="b")
    scope.extend(usage_counter="c", text_listener="d", worker_slot=("threads", None))
    assert scope.current() == Scope(None, ("a", "c"), ("b",), ("d",), (("threads", None),), False)


def test_replace():
    """replace sets fields and rejects unknown names."""
    scope.extend(budget="b")
    scope.replace(run_inline=True, usage_counters=("a",))
    assert scope.current() == Scope(None, ("a",), ("b",), (), (), True)
    with pytest.raises(KeyError):
        scope.replace(inline=True)


def test_remove_takes_the_innermost_occurrence():
    """remove takes one entry, the last one that is equal; without one it does nothing."""
    for budget in ("a", "b", "a", "c"):
        scope.extend(budget=budget)
    scope.remove("budgets", "a")
    assert scope.current().budgets == ("a", "b", "c")
    scope.remove("budgets", "missing")
    assert scope.current().budgets == ("a", "b", "c")


def test_a_copied_context_has_the_scope():
    """A copy of the context has the same scope. Changes in the copy do not leave it."""
    scope.extend(budget="b")

    def change():
        assert scope.current().budgets == ("b",)
        scope.extend(budget="c")
        scope.replace(run_inline=True)
        return scope.current()

    assert in_copy(change) == Scope(None, (), ("b", "c"), (), (), True)
    assert scope.current() == Scope(None, (), ("b",), (), (), False)


def test_a_new_thread_has_an_empty_scope():
    """A thread that was not given a context has an empty scope."""
    scope.extend(budget="b")
    assert Background(scope.current).result() == Scope()


def test_a_record_is_immutable():
    """A field of a Scope cannot be assigned."""
    with pytest.raises(AttributeError):
        scope.current().budgets = ()


def test_blocks_of_different_kinds_interleave():
    """Blocks of tokens, counters and budgets change only their own field, in whatever order they
    end."""
    token, counter, budget = Cancellation(parent=None), UsageCounter(), Budget()
    token.__enter__()
    budget.__enter__()
    counter.__enter__()
    assert scope.current() == Scope((token, None), (counter,), (budget,), (), (), False)
    token.__exit__()
    assert scope.current() == Scope(None, (counter,), (budget,), (), (), False)
    counter.__exit__()
    budget.__exit__()
    assert scope.current() == Scope()


class Interfering:
    """Equals nothing. Comparing it closes a generator, unless that is running."""

    def __init__(self, generator):
        self.generator = generator

    def __eq__(self, other):
        if not self.generator.gi_running:
            self.generator.close()
        return False

    __hash__ = object.__hash__


def test_a_generator_that_is_closed_in_the_middle():
    """If a generator ends its `with budget:` in the middle of a change, as the garbage collector
    may do, neither change is lost."""

    def hold(budget):
        with budget:
            yield

    generator = hold(Budget())
    next(generator)
    scope.extend(budget="mine")
    (held, added) = scope.current().budgets
    scope.replace(budgets=(held, added, Interfering(generator)))
    scope.remove("budgets", "mine")
    assert [entry for entry in scope.current().budgets if entry in (held, added)] == []
    del generator, held
    gc.collect()
