"""examples/durable_report.py: a killed process, and the process that continues its run."""

import re

from ..tiers import suite
from .programs import run

TOPICS = ["bees", "trains", "tides", "clocks", "bread"]


@suite
def test_nothing_that_is_done_is_done_again():
    """The driver is killed early, its finished summaries are kept, and the rest is made."""
    done = run("durable_report.py")
    assert done.returncode == 0, done.stderr
    requests = re.findall(r"^\[process (\d+)\] a request .* about (\w+)$", done.stdout, re.M)
    (killed,) = re.findall(r"killed process (\d+)", done.stdout)
    (kept,) = re.findall(r"continued; not run again: (.*)$", done.stdout, re.M)
    kept = kept.split(", ")
    assert 2 <= len(kept) < len(TOPICS) and kept == TOPICS[: len(kept)]
    in_driver = [topic for process, topic in requests if process == killed]
    afterwards = [topic for process, topic in requests if process != killed]
    assert in_driver[: len(kept)] == kept
    rest = TOPICS[len(kept) :]
    # The driver may have stored the reply for the next topic, and then it is not requested again.
    assert afterwards in (rest, rest[1:])
    assert set(in_driver) | set(afterwards) == set(TOPICS)
    assert "publish waits: Publish the report?" in done.stdout
    assert done.stdout.count("published, with the key report-42/publish/1") == 1
    assert done.stdout.splitlines()[-len(TOPICS) :] == [
        f"All there is to know about {topic}." for topic in TOPICS
    ]
