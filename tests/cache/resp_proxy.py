"""A proxy for Redis's protocol that loses or delays a command or its reply on demand."""

import socket
import threading

HANDSHAKE = {b"CLIENT", b"HELLO", b"AUTH", b"SELECT", b"PING"}
"""Commands that set up a connection: forwarded, but not counted."""


class _Closed(Exception):
    """The peer closed the connection."""


class _Stream:
    """Splits a byte stream into commands or replies, without changing the bytes."""

    def __init__(self, peer):
        self._peer = peer
        self._buffer = b""

    def _receive(self):
        data = self._peer.recv(65536)
        if not data:
            raise _Closed()
        self._buffer += data

    def _read(self, length):
        while len(self._buffer) < length:
            self._receive()
        data, self._buffer = self._buffer[:length], self._buffer[length:]
        return data

    def _read_line(self):
        while b"\r\n" not in self._buffer:
            self._receive()
        return self._read(self._buffer.index(b"\r\n") + 2)

    def message(self):
        """Return the bytes of one whole command or reply (RESP2 or RESP3), and its words."""
        line = self._read_line()
        kind, number = line[:1], line[1:-2]
        if kind in b"+-:_#,(":
            return line, [number]
        assert kind in b"$*%~", f"not a reply: {line!r}"
        if int(number) < 0:
            return line, [None]
        if kind == b"$":
            data = self._read(int(number) + 2)
            return line + data, [data[:-2]]
        raw, words = [line], []
        for _ in range(int(number) * (2 if kind == b"%" else 1)):
            part, part_words = self.message()
            raw.append(part)
            words.extend(part_words)
        return b"".join(raw), words


class RespProxy:
    """Listens on loopback and forwards to a server.

    `arm(number, mode)` selects the command that is lost, counted from 0. Mode "reply": the server
    executes it, but the reply is dropped and the connection closed. Mode "command": the connection
    is closed before the command is forwarded. Mode "call": `on_call()` is called before the command
    is forwarded. Mode "pause": likewise, and the command is forwarded after `resume()`.

    tls: the SSLContext with which it accepts connections; None (the default) for no TLS.

    commands: the commands counted since `arm`, each a list of words.
    faulted: those of them that were lost.
    """

    def __init__(self, host, port, tls=None):
        self._target = (host, port)
        self._tls = tls
        self._lock = threading.Lock()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        self.on_call = None
        self.arm(None, "reply")
        threading.Thread(target=self._serve, daemon=True).start()

    def arm(self, number, mode):
        """Select the command to lose, and restart the count."""
        with self._lock:
            self._number, self._mode = number, mode
            self.commands, self.faulted = [], []
            self._resumed = threading.Event()

    def resume(self):
        """Forward a command that is paused."""
        self._resumed.set()

    def close(self):
        """Stop listening. Existing connections live as long as their clients."""
        self._listener.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client):
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            with client, socket.create_connection(self._target) as server:
                # Nagle's algorithm would delay each reply by 40 ms.
                for peer in (client, server):
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._forward(client, server)
        except (_Closed, OSError):
            pass

    def _forward(self, client, server):
        commands, replies = _Stream(client), _Stream(server)
        while True:
            raw, words = commands.message()
            mode = self._fault(words)
            if mode == "command":
                return
            if mode in ("call", "pause"):
                self.on_call()
                if mode == "pause":
                    self._resumed.wait(60)
            server.sendall(raw)
            reply, _ = replies.message()
            if mode == "reply":
                return
            client.sendall(reply)

    def _fault(self, words):
        if words[0].upper() in HANDSHAKE:
            return None
        with self._lock:
            number = len(self.commands)
            self.commands.append(words)
            if number != self._number:
                return None
            self.faulted.append(words)
            return self._mode
