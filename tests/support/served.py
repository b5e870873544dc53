"""The query service over a real lake, under a real server on loopback."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.serve.app import create_app
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.server import listening, server_of, url_of
from lakehouse_ray.serve.service import Source
from lakehouse_ray.settings import load_settings


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A client that knows nothing of the service but its address."""

    url: str

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: object) -> Reply:
        spelled = {name.rstrip("_"): value for name, value in query.items()}
        target = f"{self.url}{path}" + (f"?{urlencode(spelled)}" if spelled else "")
        return self.send(urllib.request.Request(target, headers=dict(headers or {})))

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        made = urllib.request.Request(
            f"{self.url}{path}", data=body, headers=dict(headers or {}), method="POST"
        )
        return self.send(made)

    def send(self, request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())


def source_at(home: Path) -> Source:
    settings = load_settings({"home": home}).resolved()
    reader = Reader(settings)
    return Source(
        reader.find, reader.find_all, reader.store, settings.home / "tmp", reader.files,
        verify_files=settings.query.verify_files,
    )  # fmt: skip


@contextmanager
def running(app: FastAPI) -> Iterator[Served]:
    """The application under uvicorn, in a thread of this process."""
    server = server_of(app)
    with listening("127.0.0.1", 0) as found:
        thread = threading.Thread(target=server.run, args=([found],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Served(url_of(found))
        finally:
            server.should_exit = True
            thread.join(20)


@contextmanager
def serving(home: Path, limits: Limits | None = None, **options: Any) -> Iterator[Served]:
    with running(create_app(source_at(home), limits, **options)) as served:
        yield served
