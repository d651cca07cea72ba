"""A ModelServer in a process of its own, which says on request what it has seen: `python -m tests.aio.model_server`.

It is asked for a number of words, and sends so many; asked "for 30 words, and stop half-way", it waits there for its client
to leave. Its first line is its address. Each line that it is sent it answers with one: how many requests came in, how many
replies were sent whole, and how many connections were left by their client in the middle of one.
"""

import json
import subprocess
import sys
import threading

from asimov_sync.testing import ModelServer, last_text


class OtherProcess:
    """The server in its process, for a `with`."""

    def __enter__(self):
        command = [sys.executable, "-m", "tests.aio.model_server"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, universal_newlines=True, bufsize=1)
        self.url = self.process.stdout.readline().strip()
        return self

    def look(self):
        """(requests, whole, left)"""
        self.process.stdin.write("look\n")
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
            whole = sum(request.whole for request in requests)
            print(json.dumps([len(requests), whole, sum(request.disconnected.is_set() for request in requests)]), flush=True)


if __name__ == "__main__":
    main()
