"""One address before several servers: who connects reaches the one that is switched to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

# Small, so that what is not read soon stops whoever sends.
_BUFFER_BYTES = 16 << 10


class Switch:
    """Passes bytes on. target: Where new connections go."""

    def __init__(self, target: str = "") -> None:
        self.target = target
        self.opened = 0
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections without a word."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.opened += 1
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            behind = socket.socket()
            behind.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            parts = urlsplit(self.target)
            try:
                behind.connect((parts.hostname or "", parts.port or 0))
            except OSError:
                client.close()
                behind.close()
                continue
            self._sockets += [client, behind]
            for one, other in ((client, behind), (behind, client)):
                threading.Thread(target=_pass, args=(one, other), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def switched(target: str = "") -> Iterator[Switch]:
    made = Switch(target)
    try:
        yield made
    finally:
        made.close()
