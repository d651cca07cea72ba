"""A loopback HTTP server that answers with given bytes, in given pieces."""

import socket
import struct
import threading

from ..waiting import DEADLINE, Background


class Answer:
    """A response. pieces: its body, a write each. framing: "chunked", "length", or "close" for neither.

    length: what content-length says, where not the truth. hold: after how many pieces (-1: before the headers) the server
    waits until it is closed. pause: how many seconds it thinks before the headers. reset: whether the connection is reset at
    the end.
    """

    def __init__(self, *pieces, status=200, headers=None, framing="chunked", length=None, hold=None, pause=0, reset=False):
        self.pieces = pieces
        self.status = status
        self.headers = dict(headers or {})
        self.framing = framing
        self.length = sum(map(len, pieces)) if length is None else length
        self.hold = hold
        self.pause = pause
        self.reset = reset


class Sent:
    """A request that came. headers: lower-case names."""

    def __init__(self, line, headers, body):
        self.method, self.path, _ = line.split(" ")
        self.headers = headers
        self.body = body


class ByteServer:
    """Answers the requests that come with the answers it was given, in their order; the last one answers all the others."""

    def __init__(self, *answers):
        self.requests = []
        self.connections = 0
        self.holding = threading.Event()  # set while an answer is held
        self._answers = list(answers)
        self._closed = threading.Event()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.url = "http://127.0.0.1:{}".format(self._listener.getsockname()[1])
        self._open = []
        self._serving = [Background(self._accept)]

    def answer_with(self, *answers):
        """Answer the next requests with these; the last one answers all the others."""
        self._answers = list(answers)

    def _accept(self):
        while True:
            connection, _ = self._listener.accept()
            if self._closed.is_set():
                connection.close()
                return
            self.connections += 1
            self._open.append(connection)
            self._serving.append(Background(self._serve, connection))

    def _serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with connection, connection.makefile("rb") as received:
                while self._answer(connection, received):
                    pass
        except OSError:
            pass  # the client had enough

    def _answer(self, connection, received):
        line = received.readline().decode().strip()
        if not line:
            return False
        headers = {}
        for header in iter(lambda: received.readline().decode().strip(), ""):
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        self.requests.append(Sent(line, headers, received.read(int(headers["content-length"]))))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer.hold == -1:
            self._hold()
            return False
        self._closed.wait(answer.pause)
        told = dict({"content-type": "application/json"}, **answer.headers)
        if answer.framing == "chunked":
            told["transfer-encoding"] = "chunked"
        elif answer.framing == "length":
            told["content-length"] = str(answer.length)
        else:
            told["connection"] = "close"
        head = "".join("{}: {}\r\n".format(name, value) for name, value in told.items())
        connection.sendall("HTTP/1.1 {} Said\r\n{}\r\n".format(answer.status, head).encode())
        for number, piece in enumerate(answer.pieces):
            if answer.hold == number:
                self._hold()
                return False
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if answer.framing == "chunked" else piece)
        if answer.hold == len(answer.pieces):
            self._hold()
            return False
        if answer.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if answer.framing == "chunked":
            connection.sendall(b"0\r\n\r\n")
        return answer.framing != "close" and answer.length == sum(map(len, answer.pieces))

    def _hold(self):
        self.holding.set()
        self._closed.wait(DEADLINE)

    def close(self):
        """End; what is held is let go."""
        self._closed.set()
        socket.create_connection(self._listener.getsockname()).close()
        self._serving[0].result()
        self._listener.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed
        for one in self._serving[1:]:
            one.thread.join(DEADLINE)
            assert not one.thread.is_alive()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
