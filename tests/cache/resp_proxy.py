"""A proxy that speaks Redis's protocol, and loses one command's reply, or the command, on demand."""

import socket
import threading

HANDSHAKE = {b"CLIENT", b"HELLO", b"AUTH", b"SELECT", b"PING"}
"""What a connection says for itself: passed on, and not counted."""


class _Closed(Exception):
    """The peer hung up."""


class _Stream:
    """Commands and replies as the bytes they came in, exactly."""

    def __init__(self, peer):
        self._peer = peer
        self._buffer = b""

    def _more(self):
        data = self._peer.recv(65536)
        if not data:
            raise _Closed()
        self._buffer += data

    def _taken(self, length):
        while len(self._buffer) < length:
            self._more()
        data, self._buffer = self._buffer[:length], self._buffer[length:]
        return data

    def _line(self):
        while b"\r\n" not in self._buffer:
            self._more()
        return self._taken(self._buffer.index(b"\r\n") + 2)

    def message(self):
        """The bytes of one whole command or reply, of RESP2 or RESP3, and (of a command) its words."""
        line = self._line()
        kind, number = line[:1], line[1:-2]
        if kind in b"+-:_#,(":
            return line, [number]
        assert kind in b"$*%~", f"not a reply: {line!r}"
        if int(number) < 0:
            return line, [None]
        if kind == b"$":
            data = self._taken(int(number) + 2)
            return line + data, [data[:-2]]
        raw, words = [line], []
        for _ in range(int(number) * (2 if kind == b"%" else 1)):
            part, told = self.message()
            raw.append(part)
            words.extend(told)
        return b"".join(raw), words


class RespProxy:
    """Listens on loopback before a server. `arm(number, mode)` faults the command of that number, from 0 on: the mode
    "reply" lets the server execute it, swallows the answer and hangs up; "command" hangs up without passing it on.

    commands: what was counted since; faulted: which of them were faulted. Each is the list of a command's words.
    """

    def __init__(self, host, port):
        self._target = (host, port)
        self._lock = threading.Lock()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        self.arm(None, "reply")
        threading.Thread(target=self._serve, daemon=True).start()

    def arm(self, number, mode):
        """Begin to count anew."""
        with self._lock:
            self._number, self._mode = number, mode
            self.commands, self.faulted = [], []

    def close(self):
        """Listen no more; what is connected lives as long as its client."""
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
            with client, socket.create_connection(self._target) as server:
                # A reply that is held back until an acknowledgement comes would cost 40 ms a command.
                for peer in (client, server):
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pass(client, server)
        except (_Closed, OSError):
            pass

    def _pass(self, client, server):
        asking, answering = _Stream(client), _Stream(server)
        while True:
            raw, words = asking.message()
            mode = self._fault(words)
            if mode == "command":
                return
            server.sendall(raw)
            reply, _ = answering.message()
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
