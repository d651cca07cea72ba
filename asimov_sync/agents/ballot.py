"""Votes: what a voter may choose from, how its answer is read, and which choice has won. Pure: no IO, no clock."""

from typing import Any, List, Mapping, NamedTuple, Optional, Tuple

from pydantic import BeforeValidator, Field, create_model
from typing_extensions import Annotated, Literal

__all__ = ["Ballot", "Vote", "most"]

_DECORATION = " \t\r\n\"'`*_.!()[]{}<>"
"""What models put around a name."""


class Vote(NamedTuple):
    """What one voter said: the name that it chose and why, or what it said instead of a name."""

    name: Optional[str]
    said: str


class Ballot:
    """The names that are to be chosen from. output: the type that an answer is to be, a name and a reason."""

    def __init__(self, names: Tuple[str, ...]) -> None:
        self.names = names
        name: Any = Annotated[Literal[names], BeforeValidator(self._meant)]
        reason = Field("", description="Why, in one sentence.")
        fields: Any = {"reason": (str, reason), "choice": (name, Field(description="The name of your choice."))}
        self.output: Any = create_model("Vote", **fields)

    def named_in(self, text: str) -> Optional[str]:
        """The name that words in place of data come to: all of them, the last line, or what is behind a colon there.

        A name in the middle of a sentence is none: it may be what the model has decided against.
        """
        last = text.strip().rpartition("\n")[2]
        for said in (text, last, last.rpartition(":")[2]):
            for bare in (said.strip(), said.strip(_DECORATION)):
                if self._meant(bare) in self.names:
                    return str(self._meant(bare))
        return None

    def _meant(self, said: Any) -> Any:
        """The one of the names that is meant, where it differs in its case and the spaces around it alone."""
        alike = [name for name in self.names if _alike(name) == _alike(said)] if isinstance(said, str) else []
        return alike[0] if len(alike) == 1 else said


def _alike(name: str) -> str:
    return name.strip().casefold()


def most(votes: Mapping[str, int], nothing: int) -> Optional[str]:
    """The name with more votes than any other, and than there were for nothing; None where there is none."""
    top = max(votes.values(), default=0)
    first: List[str] = [name for name, count in votes.items() if count == top]
    return first[0] if len(first) == 1 and top > nothing else None
