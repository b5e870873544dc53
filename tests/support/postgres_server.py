"""A PostgreSQL of a test's own on loopback, where the system has one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _programs() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


PROGRAMS = _programs()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the url of an empty database. It does not run as root: there it is the user postgres'."""
    assert PROGRAMS is not None
    user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        data, port = folder / "data", _free_port()
        subprocess.run(
            [PROGRAMS / "initdb", "-D", data, "-U", "lake", "--auth=trust", "--no-sync", "-E", "UTF8"],
            check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder,
        )  # fmt: skip
        server = subprocess.Popen(
            [
                PROGRAMS / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port),
                "-k", str(folder), "-F",
            ],
            stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb"), user=user, cwd=folder,
        )  # fmt: skip
        try:
            _await(port, server, folder / "log")
            yield f"postgresql://lake@127.0.0.1:{port}/postgres"
        finally:
            # Its "fast" end; it would wait for connections that a test has left.
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + 60
    ready = [PROGRAMS / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]  # type: ignore[operator]
    while subprocess.run(ready, check=False, stdout=subprocess.DEVNULL).returncode != 0:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until_s, log.read_text()
        time.sleep(0.1)
