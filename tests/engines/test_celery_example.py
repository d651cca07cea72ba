"""examples/celery_reports, and the recipe for Celery in docs/scaling.rst."""

import os
import re
import subprocess
import sys

import pytest
import redis

from ..redis_server import RedisServer, require_server
from ..test_readme import DOCS, blocks
from .queue_workers import ROOT, WORKER_DEADLINE, QueueWorker

FOLDER = ROOT / "examples" / "celery_reports"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the test's own, which the example uses."""
    with RedisServer(require_server(), str(tmp_path)) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        yield server


def test_the_example(server, tmp_path):
    """The worker writes two reports, which the producer orders, permits and prints."""
    (command,) = re.findall(r"^    celery (.*)$", (FOLDER / "reports.py").read_text(), re.M)
    schedule = str(tmp_path / "beat")
    worker = QueueWorker(
        ["-m", "celery"] + command.split() + ["--schedule", schedule], tmp_path / "log", FOLDER
    )
    try:
        done = subprocess.run(
            [sys.executable, "order.py", "bees", "trains"],
            input="y\nn\n",
            cwd=str(FOLDER),
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=WORKER_DEADLINE,
        )
    finally:
        worker.kill()
    assert done.returncode == 0, done.stderr
    first, second = re.findall(r"^(report-\w+): ordered", done.stdout, re.M)
    assert f"{first}: Publish the report? [y/n]" in done.stdout
    assert done.stdout.splitlines()[-5:] == [
        "All there is to know about the history of bees.",
        "All there is to know about the state of bees.",
        "All there is to know about the future of bees.",
        f"{second}: complete",
        "not published",
    ]


def test_the_recipe(server):
    """The recipe of the guide stores a run and sends a message, whose task runs it."""
    (text,) = [block for block in blocks("python", DOCS / "scaling.rst") if "from celery" in block]
    assert "redis://localhost:6379/0" in text
    recipe = {}
    exec(text.replace("redis://localhost:6379/0", server.url), recipe)
    recipe["order"]("report-42", "bees")
    with redis.Redis.from_url(server.url) as client:
        assert client.llen("celery") == 1
    assert recipe["tasks"].run("report-42")["status"] == "complete"
    assert recipe["scheduler"].runs.result("report-42")["upper"] == "BEES"
