"""HTTP on a plain socket, to see the exact bytes of a server."""

import json
import socket


class RawResponse:
    """A response as received.

    pieces: the bytes of each recv().
    reset: whether the connection ended with a TCP reset.
    """

    def __init__(self, pieces, reset):
        self.pieces = pieces
        self.reset = reset
        self.bytes = b"".join(pieces)
        head, self.empty_line, self.rest = self.bytes.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1]) if lines[0] else None
        fields = (line.split(": ", 1) for line in lines[1:])
        self.headers = {name.lower(): value for name, value in fields}
        self.chunked = self.headers.get("transfer-encoding") == "chunked"

    @property
    def body(self):
        """The bytes of the body, including those of an incomplete chunk."""
        return self._unchunked()[0] if self.chunked else self.rest

    @property
    def whole(self):
        """True if the body has an announced end and reached it.

        A body that ends with its connection has no announced end.
        """
        if self.chunked:
            return self._unchunked()[1]
        return len(self.rest) == int(self.headers.get("content-length", -1))

    def _unchunked(self):
        body, rest = b"", self.rest
        while rest:
            length, _, rest = rest.partition(b"\r\n")
            size = int(length, 16)
            if not size:
                return body, rest == b"\r\n"
            body, rest = body + rest[:size], rest[size + 2 :]
        return body, False


def post(server, path, body, headers=(), recv=65536):
    """Send a request on a new connection and read the response until the connection ends."""
    with send_request(server, path, body, headers) as connection:
        pieces, reset = [], False
        try:
            while True:
                data = connection.recv(recv)
                if not data:
                    break
                pieces.append(data)
        except ConnectionResetError:
            reset = True
        return RawResponse(pieces, reset)


def send_request(server, path, body, headers=(), keep=False, send=True):
    """Send a request on a new connection, and return the socket to read from.

    keep: leave the connection open for another request.
    send: False to connect only.
    """
    port = int(server.bedrock_url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    if send:
        data = json.dumps(body).encode("utf-8")
        head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(data)}"]
        head += [] if keep else ["connection: close"]
        connection.sendall("\r\n".join(head + list(headers)).encode("latin-1") + b"\r\n\r\n" + data)
    return connection
