"""Votes: how they are read and counted."""

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from asimov_sync.agents.ballot import Ballot, most

BALLOT = Ballot(("billing", "Sales", "page[0]", "a b", "x:y"))


@pytest.mark.parametrize(
    "text, name",
    [
        ("billing", "billing"),
        ("  SALES\n", "Sales"),
        ('"billing".', "billing"),
        ("**billing**", "billing"),
        ("page[0]", "page[0]"),
        ("`a b`", "a b"),
        ("I would say: billing", "billing"),
        ("The mail is about money.\n\nMy choice: **billing**.", "billing"),
        ("No.\nSales", "Sales"),
        ("No.\nx:y", "x:y"),
        ("not billing", None),
        ("billing or sales", None),
        ("I refuse to choose billing", None),
        ("billing: because of the money", None),
        ("billing\n(and not sales, although that was asked for)", None),
        ("bill", None),
        ("", None),
        ("\n", None),
        (":", None),
    ],
)
def test_words(text, name):
    """A name counts where it is all that is said, or is said last; not in the middle of a sentence."""
    assert BALLOT.named_in(text) == name


def test_data():
    """In data a name may differ in its case and the spaces around it, and in nothing else."""
    for said, name in (("billing", "billing"), (" BILLING ", "billing"), ("sales", "Sales")):
        assert BALLOT.output(choice=said).choice == name
    for wrong in ("bill", "", None, 3, ["billing"], "billing."):
        with pytest.raises(ValidationError):
            BALLOT.output(choice=wrong)
    schema = BALLOT.output.model_json_schema()
    assert schema["properties"]["choice"]["enum"] == ["billing", "Sales", "page[0]", "a b", "x:y"]
    assert schema["required"] == ["choice"]


def test_names_that_are_alike():
    """Names that differ in their case alone are told apart, and a third spelling is none of them."""
    ballot = Ballot(("go", "GO"))
    assert (ballot.named_in("go"), ballot.named_in("GO"), ballot.named_in("Go")) == ("go", "GO", None)


@pytest.mark.parametrize(
    "votes, nothing, winner",
    [
        ({"a": 1}, 0, "a"),
        ({"a": 2, "b": 1}, 0, "a"),
        ({"a": 1, "b": 2}, 1, "b"),
        ({"a": 1, "b": 1}, 0, None),
        ({"a": 2, "b": 2, "c": 1}, 0, None),
        ({"a": 2, "b": 1, "c": 1}, 0, "a"),
        ({"a": 1}, 1, None),
        ({"a": 1}, 2, None),
        ({"a": 2}, 1, "a"),
        ({}, 0, None),
        ({}, 3, None),
    ],
)
def test_counting(votes, nothing, winner):
    """The most votes win; not where two have as many, or where as many were for nothing."""
    assert most(votes, nothing) == winner


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4)), st.integers(0, 4))
def test_a_winner_has_more_than_anybody(votes, nothing):
    """Whoever wins has more votes than every other, and than nothing; where somebody has, somebody wins."""
    winner = most(votes, nothing)
    ahead = [
        name for name in votes if all(votes[name] > votes[other] for other in votes if other != name) and votes[name] > nothing
    ]
    assert ([] if winner is None else [winner]) == ahead
