"""Commands as processes of their own, and the processes that they start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from support.forked import LAKEHOUSE, popen

KLINES_1M = ("--market", "spot", "--dataset", "klines", "--interval", "1m")
WORK_BEGINS = "workers are up"
MANY_BYTES = str(1 << 40)


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with the lake's settings replaced by `settings`.

    Without the token of a Ray that earlier tests of this process started.
    """
    left_out = ("LAKEHOUSE_", "RAY_AUTH_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    return inherited | {f"LAKEHOUSE_{name}": str(value) for name, value in settings.items()}


@contextmanager
def serve(root: Path, faults: str = "") -> Iterator[str]:
    """Serve a folder as the archive, in a process of its own; yields its url."""
    arguments = ["exchange", "--root", str(root), "--json"]
    if faults:
        (root.parent / "faults.toml").write_text(faults)
        arguments += ["--faults", str(root.parent / "faults.toml")]
    with popen(
        *arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


class Command:
    """One running `lakehouse …`, its lines as they come, and everything it starts.

    real: The command itself, not one that is forked.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str], real: bool = False) -> None:
        streams = {
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL,
        }  # fmt: skip
        options: dict[str, Any] = {"text": True, "env": dict(env), "start_new_session": True}
        self.process: subprocess.Popen[str] = (
            subprocess.Popen([LAKEHOUSE, *arguments], **streams, **options)
            if real
            else popen(*arguments, **streams, **options)
        )
        self.started_s = time.monotonic()
        self.out: list[str] = []
        self.err: list[str] = []
        self.seen: dict[int, psutil.Process] = {}
        self._work_began = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in (
                (self.process.stdout, self.out),
                (self.process.stderr, self.err),
            )
        ]
        for reader in self._readers:
            reader.start()

    def wait_for_work(self, timeout_s: float = 120) -> None:
        """Wait until workers are up, or the command has ended."""
        until = time.monotonic() + timeout_s
        while not self._work_began.wait(0.02):
            if self.process.poll() is not None:
                return
            assert time.monotonic() < until, self.said()

    def wait(self, timeout_s: float = 180) -> int:
        """Wait for the end; the exit code, negative where a signal ended it."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s: {self.said()}") from None
        for reader in self._readers:
            reader.join(10)
        return code

    def said(self) -> str:
        return "".join([*self.err, *self.out])

    def offspring(self, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
        """Living processes that this command started, directly or not, by pid."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[child.pid] = child
                with contextlib.suppress(psutil.NoSuchProcess):
                    if wanted(child):
                        found.append(child)
        return sorted(found, key=lambda process: process.pid)

    def leftovers(self, patience_s: float) -> list[str]:
        """What still lives of everything ever seen of this command after so many seconds."""
        until = time.monotonic() + patience_s
        while True:
            alive = [p for p in self.seen.values() if _lives(p)]
            if not alive or time.monotonic() > until:
                return [_title(process) for process in alive]
            time.sleep(0.1)

    def end(self) -> None:
        """End the command and what it left, by pid."""
        self.offspring(lambda _: False)
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None:
                os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for process in self.seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                if _lives(process):
                    process.kill()

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            lines.append(line)
            if line.startswith(WORK_BEGINS):
                self._work_began.set()


@contextmanager
def running(*arguments: str, env: Mapping[str, str], real: bool = False) -> Iterator[Command]:
    """A command that does not outlive the context."""
    command = Command(*arguments, env=env, real=real)
    try:
        yield command
    finally:
        command.end()


def run(*arguments: str, env: Mapping[str, str], timeout_s: float = 180) -> tuple[int, str]:
    """Run a command to its end: exit code, and all it said."""
    with running(*arguments, env=env) as command:
        return command.wait(timeout_s), command.said()


def is_worker(process: psutil.Process) -> bool:
    return _title(process).startswith("ray::PoolWorker")


def is_committer(process: psutil.Process) -> bool:
    return _title(process).startswith("ray::SharedInstance")


def is_raylet(process: psutil.Process) -> bool:
    return bool(process.name() == "raylet")


def anything(process: psutil.Process) -> bool:
    return True


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1]) or str(process.name())
    except psutil.Error:
        return ""


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
