"""The examples of the task graph, as a user runs them: another input, another outcome, and it follows from the input."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.waiting import DEADLINE

from ..tiers import suite

pytestmark = suite

ROOT = pathlib.Path(__file__).parent.parent.parent
BEES = """\
Bees gather nectar from flowers. A hive keeps its honey in combs of wax.

The weather was fine. Nobody flies in the snow.
"""
TRAINS = "Trains leave from the station at noon.\n\nA late train brings honey to nobody.\n"


def command(program, *arguments):
    return [sys.executable, str(ROOT / "examples" / program)] + [str(argument) for argument in arguments]


def run(program, *arguments, given=None, **environment):
    """The finished process of an example; `given` is its standard input."""
    return subprocess.run(
        command(program, *arguments),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, **environment),
        encoding="utf-8",
        timeout=60,
    )


@pytest.fixture
def bees(tmp_path):
    path = tmp_path / "bees.txt"
    path.write_text(BEES, encoding="utf-8")
    return path


@pytest.fixture
def trains(tmp_path):
    path = tmp_path / "trains.txt"
    path.write_text(TRAINS, encoding="utf-8")
    return path


# research.py


def test_research_answers_from_the_files_that_say_something(bees, trains):
    """One digest a file that has the question's words, from its own sentences; the answer is the best of the digests."""
    done = run("research.py", "Where does a hive keep honey?", bees, trains)
    assert done.returncode == 0, done.stderr
    answer, first, second, figures = done.stdout.splitlines()
    assert answer == "A hive keeps its honey in combs of wax."
    assert first == "- {}: A hive keeps its honey in combs of wax.".format(bees)
    assert second == "- {}: A late train brings honey to nobody.".format(trains)
    assert re.match(r"\(3 requests, \d+ tokens\)$", figures)
    assert "{}: 1 of 2 passages".format(bees) in done.stderr


def test_research_another_question_another_answer(bees, trains):
    """The same files: another question leaves one of them out, and the graph grows by one digest and not by two."""
    done = run("research.py", "At which station do trains leave?", bees, trains)
    assert done.stdout.splitlines()[0] == "Trains leave from the station at noon."
    assert str(bees) not in done.stdout and "(2 requests" in done.stdout
    assert done.stderr.count("digest ") == 1


def test_research_of_nothing(bees):
    """Where no file says anything, there is no answer, no request, and exit status 1."""
    done = run("research.py", "Zebra?", bees)
    assert (done.returncode, done.stdout) == (1, "")
    assert "collect failed: LookupError: no file says anything of this question" in done.stderr


def test_research_with_a_gap(bees, tmp_path):
    """A file that cannot be read fails its own search; the others are answered from, and the exit status says so."""
    done = run("research.py", "Where is honey kept?", tmp_path / "none.txt", bees)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "A hive keeps its honey in combs of wax."
    assert "search[0] failed: FileNotFoundError" in done.stderr


def test_research_reads_the_documentation_where_no_file_is_given():
    """Every page of docs/ is searched, and the answer is a passage of one of them."""
    done = run("research.py", "What happens to a message when its reader is killed?")
    assert done.returncode == 0, done.stderr
    pages = list((ROOT / "docs").glob("*.rst"))
    for page in pages:
        assert "{}: ".format(page) in done.stderr
    answer = done.stdout.splitlines()[0]
    assert any(answer in " ".join(page.read_text(encoding="utf-8").split()) for page in pages)


@pytest.mark.parametrize(
    "arguments",
    [["research.py", "Honey?"], ["writer_critic.py", "--words", "3"], ["router.py"]],
    ids=["research", "writer_critic", "router"],
)
def test_a_key_is_used_where_there_is_one(arguments, bees):
    """With a key the real client is used: here no way leads there, so all fails; the key is in no output."""
    proxy = "http://127.0.0.1:9"
    done = run(*(arguments + [bees]), ANTHROPIC_API_KEY="sk-none", HTTPS_PROXY=proxy, https_proxy=proxy)
    assert done.returncode == 1
    assert "ConnectionFailed" in done.stdout + done.stderr and "No ANTHROPIC_API_KEY" not in done.stderr
    assert "sk-none" not in done.stdout + done.stderr


# writer_critic.py


def test_the_critic_accepts_what_fits(bees):
    """A text that fits is accepted at once; otherwise it goes back once for every sentence that has to go."""
    whole = run("writer_critic.py", "--words", 100, bees)
    assert (whole.returncode, whole.stdout.strip()) == (0, " ".join(BEES.split()))
    assert re.findall("^check: (.*)$", whole.stderr, re.M) == ["It fits."]
    count = len(BEES.split())
    shorter = run("writer_critic.py", "--words", count - 1, bees)
    assert shorter.returncode == 0
    assert re.findall("^check: (.*)$", shorter.stderr, re.M) == ["It has {} words, 1 too many.".format(count), "It fits."]
    assert len(shorter.stdout.split()) < count
    assert all(sentence in whole.stdout for sentence in re.split(r"(?<=\.)\s+", shorter.stdout.strip()))


@pytest.mark.parametrize("words", [3, 8, 13, 20])
def test_what_is_accepted_has_as_many_words_as_asked_for(bees, words):
    """Whatever the limit: what was accepted keeps to it, and what was not, and is told to be so, does not."""
    done = run("writer_critic.py", "--words", words, bees)
    assert (len(done.stdout.split()) <= words) == (done.returncode == 0)
    assert done.stdout.strip()


@pytest.mark.parametrize("visits", [1, 3])
def test_out_of_visits(bees, visits):
    """A limit that cannot be kept: the writer is started max_visits times, the last draft is shown, exit status 1."""
    done = run("writer_critic.py", "--words", 1, "--visits", visits, bees)
    assert done.returncode == 1
    verdicts = re.findall("^check: (.*)$", done.stderr, re.M)
    assert len(verdicts) == visits and all(verdict.startswith("It has") for verdict in verdicts[:-1])
    assert "check failed: GraphError: 'write' was started {} times, its max_visits".format(visits) in done.stderr
    sentences = re.split(r"(?<=\.)\s+", done.stdout.strip())
    assert len(sentences) == 4 - (visits - 1)


def test_a_text_that_is_not_there(tmp_path):
    """Exit status 2 and one line, no traceback."""
    done = run("writer_critic.py", tmp_path / "none.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and "none.txt" in done.stderr


# router.py


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
def test_a_question_goes_to_who_can_answer_it(question, answer):
    """The one who was chosen answers, and nobody else; the answer follows from the question."""
    done = run("router.py", question)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{}\n    {}\n".format(question, answer)


def test_questions_do_not_touch_one_another():
    """Where one cannot be answered, by whoever was chosen, that is told; the others are; exit status 1."""
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


# approval.py


@pytest.fixture
def start():
    """Starts an example beside the test; kills what is left of it."""
    started = []

    def begin(*arguments):
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ), encoding="utf-8"
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "answers, paid, told, status",
    [
        (["yes", "yes"], ["PAID 7 to Ada", "PAID 900 to Bob"], "Done: paid 7 to Ada; paid 900 to Bob.", 0),
        (["yes", "too much"], ["PAID 7 to Ada"], "Done: paid 7 to Ada; ToolRefused: too much.", 1),
        (["ask her", "not him"], [], "Done: ToolRefused: ask her; ToolRefused: not him.", 1),
    ],
)
def test_a_second_process_approves(start, redis_url, unique, answers, paid, told, status):
    """What is shown there is what the agent wants to do; only what is approved there is done here."""
    worker = start("approval.py", "--prefix", unique, redis_url, "work", "Pay 7 to Ada and 900 to Bob.")
    decided = run("approval.py", "--prefix", unique, redis_url, "decide", "--count", 2, given="\n".join(answers) + "\n")
    out, err = worker.communicate(timeout=DEADLINE)
    assert decided.returncode == 0, decided.stderr
    assert re.findall(r"pay\(.*?\)", decided.stdout) == ["pay(amount=7, to='Ada')", "pay(amount=900, to='Bob')"]
    *first, last = out.splitlines()
    assert (sorted(first), last, worker.returncode) == (sorted(paid), told, status), err


def test_what_one_leaves_undecided_another_decides(start, redis_url, unique):
    """A decider who goes away without an answer gives the question back; the work goes on when the next one answers."""
    worker = start("approval.py", "--prefix", unique, redis_url, "work", "Pay 12 to Eve.")
    undecided = run("approval.py", "--prefix", unique, redis_url, "decide", given="")
    assert undecided.returncode == 1 and "pay(amount=12, to='Eve')" in undecided.stdout
    assert worker.poll() is None
    run("approval.py", "--prefix", unique, redis_url, "decide", "--count", 1, given="yes\n")
    out, _ = worker.communicate(timeout=DEADLINE)
    assert (out, worker.returncode) == ("PAID 12 to Eve\nDone: paid 12 to Eve.\n", 0)


def test_nobody_answers(start, redis_url, unique):
    """After its patience the work ends with nothing paid; whoever comes later is not asked about what is over."""
    late = run("approval.py", "--prefix", unique, redis_url, "work", "--patience", 0.3, "Pay 12 to Eve.")
    assert (late.returncode, late.stdout) == (1, "Not finished.\n")
    assert "TaskTimeout" in late.stderr
    worker = start("approval.py", "--prefix", unique, redis_url, "work", "Pay 1 to Ada.")
    decided = run("approval.py", "--prefix", unique, redis_url, "decide", "--count", 1, given="yes\n")
    assert "Eve" not in decided.stdout and "pay(amount=1, to='Ada')" in decided.stdout
    assert worker.communicate(timeout=DEADLINE)[0].startswith("PAID 1 to Ada")


def test_nothing_to_approve(redis_url, unique):
    """A request without a payment asks nobody."""
    done = run("approval.py", "--prefix", unique, redis_url, "work", "Good evening.")
    assert (done.returncode, done.stdout) == (0, "There is nothing to pay.\n")


def test_no_redis():
    """A server that is not there: exit status 2, one line, no traceback."""
    done = run("approval.py", "redis://127.0.0.1:9/0", "decide")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("approval.py: ") and "Traceback" not in done.stderr
