"""A server between a client and the real one, which spoils what it hands on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request, urlopen

_PASSED_ON = (
    "content-type", "content-digest", "lakehouse-rows", "lakehouse-snapshots", "link", "etag",
    "content-length", "retry-after",
)  # fmt: skip


@dataclass
class Passed:
    """An answer on its way. sent: How many bytes of the body leave; None: all of them."""

    status: int
    headers: dict[str, str]
    body: bytes
    sent: int | None = None


# Given the request's number (from 1) and the answer; None: the connection ends without one.
Spoil = Callable[[int, Passed], Passed | None]


@dataclass
class Between:
    url: str
    asked: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def between(target: str, spoil: Spoil) -> Iterator[Between]:
    seen = Between("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass(None)

        def do_POST(self) -> None:
            self._pass(self.rfile.read(int(self.headers["Content-Length"])))

        def _pass(self, data: bytes | None) -> None:
            seen.asked.append(self.path)
            seen.keys.append(self.headers.get("Authorization"))
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() in ("accept", "authorization", "content-type")
            }
            try:
                with urlopen(Request(target + self.path, data, headers), timeout=30) as answer:
                    found = (answer.status, answer.headers, answer.read())
            except HTTPError as error:
                with error:
                    found = (error.code, error.headers, error.read())
            kept = {n.lower(): v for n, v in found[1].items() if n.lower() in _PASSED_ON}
            passed = spoil(len(seen.asked), Passed(found[0], kept, found[2]))
            self.close_connection = True
            if passed is None:
                return
            self.send_response(passed.status)
            if "content-length" not in passed.headers:
                passed.headers["content-length"] = str(len(passed.body))
            for name, value in passed.headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(passed.body[: passed.sent])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
