"""A ModelServer in a process of its own: `python -m tests.aio.model_server`.

Asked "for 30 words", it sends 30 words; asked "for 30 words, and stop half-way", it stops there
until its client disconnects. Its first line of output is its address. For each line of input it
prints the number of requests, of complete replies, and of connections closed by the client in the
middle of a reply.
"""

import json
import subprocess
import sys
import threading

from asimov_sync.testing import ModelServer, last_text


class ServerProcess:
    """Starts and stops the server process, as a context manager."""

    def __enter__(self):
        command = [sys.executable, "-m", "tests.aio.model_server"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, universal_newlines=True, bufsize=1
        )
        self.url = self.process.stdout.readline().strip()
        return self

    def read_counts(self):
        """Return (requests, complete replies, disconnected clients)."""
        self.process.stdin.write("counts\n")
        return tuple(json.loads(self.process.stdout.readline()))

    def __exit__(self, *exc_info):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def answer(body):
    return "word " * int(last_text(body).split()[1])


def before_event(request, number):
    words = int(last_text(request.body).split()[1])
    stops = "stop" in last_text(request.body) and number > words // 2 + 3
    return threading.Event() if stops else None


def main():
    with ModelServer(answer, before_event=before_event) as server:
        print(server.url, flush=True)
        for _ in sys.stdin:
            requests = list(server.requests)
            complete = sum(request.whole for request in requests)
            print(
                json.dumps(
                    [
                        len(requests),
                        complete,
                        sum(request.disconnected.is_set() for request in requests),
                    ]
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
