"""A loopback server that answers each request with bytes that were recorded, cut into pieces and framed as asked."""

import socket

from ..waiting import Background

CHUNKINGS = ["whole", "events", "splinters"]
FRAMINGS = ["chunked", "close"]
SPLINTER = 7


def pieces(body, chunking):
    """The body in one piece, in pieces that end with an event, or in pieces of seven bytes, which end anywhere."""
    if chunking == "whole":
        return [body]
    if chunking == "events":
        ends = [place + 2 for place in range(len(body)) if body[place : place + 2] == b"\n\n"] + [len(body)]
        return [body[start:end] for start, end in zip([0] + ends, ends) if start < end]
    return [body[place : place + SPLINTER] for place in range(0, len(body), SPLINTER)]


class Replay:
    """Answers with `answer` (status, headers, pieces, framing), which a test sets before each request.

    framing: "chunked", "close" (the end of the connection is the end of the body) or "length". heads: the request lines and
    headers that came in.
    """

    def __init__(self):
        self.answer = None
        self.heads = []
        self._closing = False
        self._connections = []
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self.url = "http://127.0.0.1:{}/".format(self._listener.getsockname()[1])
        self._serving = Background(self._serve)

    def _serve(self):
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            self._connections.append((connection, Background(self._converse, connection)))

    def _converse(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            try:
                self._answer(connection)
            except OSError:
                pass  # a client that has seen the final event is not interested in what follows

    def _answer(self, connection):
        """Answer the requests of one connection."""
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(data) < length:
                data += connection.recv(65536)
            data = data[length:]
            self.heads.append(head.decode("latin-1"))
            status, headers, parts, framing = self.answer
            if not self.send(connection, status, headers, parts, framing):
                return

    def send(self, connection, status, headers, parts, framing):
        """Send an answer; whether the connection is used again."""
        lines = ["HTTP/1.1 {} Recorded".format(status)] + ["{}: {}".format(*header) for header in headers.items()]
        if framing == "chunked":
            lines.append("transfer-encoding: chunked")
            parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]
        elif framing == "length":
            lines.append("content-length: {}".format(sum(map(len, parts))))
        else:
            lines.append("connection: close")
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        for part in parts:
            connection.sendall(part)
        return framing != "close"

    def close(self):
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()
        self._serving.result()
        self._listener.close()
        for connection, answering in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)  # one that a client keeps open
            except OSError:
                pass
            answering.result()
