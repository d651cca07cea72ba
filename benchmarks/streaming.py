"""What a streamed text event costs, against a loop written by hand, and against Anthropic's SDK where that is installed.

    python benchmarks/streaming.py [ROUNDS]

The readers read the same Messages stream in turn, ROUNDS times (15 by default); the ratios are of neighbours. What is
measured is the CPU time of this process, the system's share included, for one text event; the server is another process. A
stream comes in one of three ways: an event a write with a pause after it, so that each read finds one; an event a chunk, all
at once; and packed to chunks of 16 KB, as behind a proxy that buffers. By hand means: requests, http.client's read1, split at
the blank lines, json.loads, the text of each text_delta; no reply is put together, nothing can be cancelled, and a stream
that was cut goes unnoticed. The goal is 1.5 times that.
"""

import http.server
import importlib
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

import requests

from asimov_sync import AnthropicInferenceClient

EVENTS = 5000
PACED_EVENTS = 1000
PAUSE_SECONDS = 0.0005
PACKED_BYTES = 16384
GOAL = 1.5
WORDS = "a stream comes in pieces, of a word or a few of them: “so”, say, or the half of a longer one".split(" ")
ASKED = {"model": "any", "max_tokens": 4096, "stream": True, "messages": [{"role": "user", "content": "Go on."}]}

Reader = Callable[[str], Iterator[str]]
"""Reads the stream of an address, and yields the pieces of its text."""


# The server


def events(count: int) -> List[bytes]:
    """The events of a reply of so many pieces of text, two or so words each, framed as the real API frames them."""
    usage = {"input_tokens": 12, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "any", "content": [], "usage": usage}
    told: List[Dict[str, Any]] = [
        {"type": "message_start", "message": dict(message, stop_reason=None, stop_sequence=None)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    words = itertools.cycle(WORDS)
    for number in range(count):
        piece = " ".join(itertools.islice(words, 1 + number % 3)) + " "
        told.append({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}})
    told.append({"type": "content_block_stop", "index": 0})
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    told.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": count}})
    told.append({"type": "message_stop"})
    line = "event: {}\ndata: {}\n\n"
    return [
        line.format(event["type"], json.dumps(event, ensure_ascii=False, separators=(",", ":"))).encode("utf-8")
        for event in told
    ]


def chunk(data: bytes) -> bytes:
    """Bytes as a chunk of a body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def writes(way: str) -> List[bytes]:
    """What the server writes for a stream, a pause after each."""
    if way == "paced":
        return [chunk(event) for event in events(PACED_EVENTS)] + [chunk(b"")]
    whole = events(EVENTS)
    if way == "packed":
        joined = b"".join(whole)
        whole = [joined[place : place + PACKED_BYTES] for place in range(0, len(joined), PACKED_BYTES)]
    return [b"".join(chunk(data) for data in whole + [b""])]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a POST to /WAY/v1/messages with the stream of that way."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    streams: Dict[str, List[bytes]] = {}

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        """Send the head, and then what was made ready."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for data in self.streams[self.path.split("/")[1]]:
            self.wfile.write(data)
            time.sleep(PAUSE_SECONDS)


def serve() -> None:
    """The server's process: tell the port, and serve until it is ended."""
    Handler.streams = {way: writes(way) for way in ("paced", "chunks", "packed")}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


# The readers


def by_hand(session: requests.Session) -> Reader:
    """A loop over requests, as one would write it who wants it fast, and gets events as they arrive."""
    headers = {"content-type": "application/json", "accept-encoding": "identity", "x-api-key": "none"}

    def read(address: str) -> Iterator[str]:
        data = json.dumps(ASKED).encode("utf-8")
        with session.post(address + "/v1/messages", data=data, headers=headers, stream=True) as response:
            response.raise_for_status()
            source: Any = response.raw
            rest = b""
            while True:
                piece = source._fp.read1(65536)  # urllib3's own read1 is younger than Python 3.7's last urllib3
                if not piece:
                    return
                *whole, rest = (rest + piece).split(b"\n\n")
                for event in whole:
                    for line in event.split(b"\n"):
                        if line.startswith(b"data: "):
                            told = json.loads(line[6:])
                            if told["type"] == "content_block_delta" and told["delta"]["type"] == "text_delta":
                                yield told["delta"]["text"]

    return read


def ours(address: str) -> Iterator[str]:
    """The client's stream."""
    client = AnthropicInferenceClient(model="any", api_key="none", api_url=address + "/v1/messages")
    with client, client.stream("Go on.") as stream:
        for text in stream.text_stream:
            yield text


def sdk(anthropic: Any) -> Reader:
    """The stream of Anthropic's own client."""
    clients: Dict[str, Any] = {}

    def read(address: str) -> Iterator[str]:
        if address not in clients:
            clients[address] = anthropic.Anthropic(api_key="none", base_url=address, max_retries=0)
        asked = {name: value for name, value in ASKED.items() if name != "stream"}
        with clients[address].messages.stream(**asked) as stream:
            for text in stream.text_stream:
                yield text

    return read


def readers() -> Dict[str, Reader]:
    """What is compared, by name."""
    found: Dict[str, Reader] = {"by hand": by_hand(requests.Session()), "asimov_sync": ours}
    try:
        anthropic: Any = importlib.import_module("anthropic")
    except ImportError:
        return found
    return dict(found, **{"anthropic {}".format(anthropic.__version__): sdk(anthropic)})


# Measuring


def measured(read: Reader, address: str, count: int) -> Tuple[float, int]:
    """The CPU seconds for one of `count` events, and how many characters came."""
    start = time.process_time()
    pieces = characters = 0
    for text in read(address):
        pieces += 1
        characters += len(text)
    seconds = (time.process_time() - start) / count
    if pieces != count:
        sys.exit("{} pieces of text in place of {}".format(pieces, count))
    return seconds, characters


def main(rounds: int) -> int:
    """Measure, print, and say (with the exit status) whether the goal is met."""
    named = readers()
    ways = {"an event a read": ("paced", PACED_EVENTS), "an event a chunk": ("chunks", EVENTS), "16 KB": ("packed", EVENTS)}
    figures: Dict[Tuple[str, str], List[float]] = {(way, name): [] for way in ways for name in named}
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            root = "http://127.0.0.1:{}/".format(int(server.stdout.readline()))
            for number in range(rounds + 1):
                for way, (path, count) in ways.items():
                    told = {name: measured(read, root + path, count) for name, read in named.items()}
                    if len({characters for _, characters in told.values()}) != 1:
                        sys.exit("not all have read the same text: {}".format(told))
                    if number:  # the first round imports, and opens the connections
                        for name, (seconds, _) in told.items():
                            figures[way, name].append(seconds)
        finally:
            server.terminate()
    print(
        "Python {}, requests {}, {} rounds; microseconds of CPU time for a text event, and the ratio to by hand".format(
            platform.python_version(), requests.__version__, rounds
        )
    )
    print("{:36} {:>7} {:>7} {:>7}   {:>6} {:>6} {:>6}".format("", "min", "median", "max", "min", "median", "max"))
    missed = []
    for (way, name), all_seconds in figures.items():
        ratios = sorted(one / other for one, other in zip(all_seconds, figures[way, "by hand"]))
        ratio = statistics.median(ratios)
        print(
            "{:36} {:7.1f} {:7.1f} {:7.1f}   {:6.2f} {:6.2f} {:6.2f}".format(
                way + ": " + name,
                1e6 * min(all_seconds),
                1e6 * statistics.median(all_seconds),
                1e6 * max(all_seconds),
                ratios[0],
                ratio,
                ratios[-1],
            )
        )
        if name == "asimov_sync" and ratio > GOAL:
            missed.append(way)
    print("goal of {} missed: {}".format(GOAL, ", ".join(missed) or "never"))
    return 1 if missed else 0


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
