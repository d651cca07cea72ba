"""`asimov-sync serve`: a server with the live page, for the browser of this machine."""

import http.client
import re
import signal
import urllib.parse

import pytest

from asimov_sync import RunStatus
from asimov_sync.cli.main import main

from ..tiers import soak
from ..waiting import DEADLINE, wait_for
from .programs import start_command


def enter(process):
    """Open the address that the process prints.

    Returns a function that sends requests, and the line that follows the address.
    """
    line, note = process.stdout.readline(), process.stdout.readline()
    address = urllib.parse.urlsplit(re.search(r"http://\S+", line).group())
    cookies = []

    def send(method, path, fields=None):
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=DEADLINE)
        headers = {"Cookie": "; ".join(cookies)}
        body = None
        if fields is not None:
            body = urllib.parse.urlencode(fields)
            headers["Origin"] = f"http://127.0.0.1:{address.port}"
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        cookies.extend(one.partition(";")[0] for one in reply.headers.get_all("Set-Cookie", ()))
        return reply.status, reply.read().decode()

    assert send("GET", f"/?{address.query}")[0] == 303
    return send, note


@soak
def test_it_shows_answers_and_continues(program, tmp_path):
    """With --write and --work, an answer in the page continues a parked run; SIGTERM ends all."""
    assert program.scheduler.run("single", args={"type": "ask"}, run_id="r").waiting
    name = program.__name__ + ":scheduler"
    arguments = ["serve", "--scheduler", name, "--write", "--work", "--port", "0"]
    with start_command(tmp_path, *arguments) as process:
        send, _ = enter(process)
        status, page = send("GET", "/runs/r")
        assert status == 200 and "parked" in page
        fields = dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', page))
        assert send("POST", "/runs/r/answer", dict(fields, value="a word"))[0] == 303
        wait_for(lambda: program.store.get("r").status is RunStatus.COMPLETE, "the end of the run")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 143 and "Traceback" not in err
    assert program.store.result("r").results == {"only": "a word"}


@soak
def test_it_is_read_only(program, tmp_path):
    """Without --write, the page has no forms; Ctrl-C ends the server with status 130."""
    assert program.scheduler.run("single", args={"type": "ask"}, run_id="r").waiting
    with start_command(tmp_path, "serve", "--cache", "runs.db", "--port", "0") as process:
        send, note = enter(process)
        assert "--write" in note
        status, page = send("GET", "/runs/r")
        assert status == 200 and "<form" not in page
        assert send("POST", "/runs/r/cancel", {"csrf": "x"})[0] == 403
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130 and err == ""


def test_wrong_arguments(folder, capsys):
    """A missing file, a port out of range, and --work without a scheduler are messages."""
    assert main(["serve", "--cache", "none.db"]) == 4
    assert main(["serve", "--cache", "none.db", "--work"]) == 2
    assert "give --scheduler" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit:
        main(["serve", "--port", "70000"])
    assert exit.value.code == 2


def test_a_port_in_use(program, folder, capsys):
    """A port that another program uses is a message."""
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        program.scheduler.run("single", args={"type": "ask"}, run_id="r")
        port = str(other.getsockname()[1])
        assert main(["serve", "--cache", "runs.db", "--port", port]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().err
