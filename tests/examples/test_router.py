"""examples/router.py: each question goes to its specialist."""

import pytest

from ..tiers import suite
from .programs import run

pytestmark = suite


@pytest.mark.parametrize(
    "question, answer",
    [
        ("What is 12 * (3 + 4)?", "84 (calculate)"),
        ("What is 12 * 3 + 4?", "40 (calculate)"),
        ("On which weekday was 2024-02-29?", "Thursday (calendar)"),
        ("On which weekday was 2024-03-01?", "Friday (calendar)"),
        ("How many letters has 'honey'?", "5 (count)"),
        ("How often is the letter 'r' in 'strawberry'?", "3 (count)"),
        ("Who are you?", "I cannot tell. (decline)"),
    ],
)
def test_question_goes_to_its_specialist(question, answer):
    """Only the chosen specialist answers, and the answer is correct."""
    done = run("router.py", question)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{question}\n    {answer}\n"


def test_failed_questions():
    """If a question cannot be answered, the reason is printed; the others are answered."""
    done = run("router.py", "What is 1 / 0 ?", "How many letters are there?", "What is 1 / 4 ?")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "What is 1 / 0 ?",
        "    no answer: ZeroDivisionError: float division by zero",
        "How many letters are there?",
        "    no answer: ValueError: there is nothing in quotes in the question",
        "What is 1 / 4 ?",
        "    0.25 (calculate)",
    ]
