"""Workers that run until they are told to stop, and are replaced when they die.

`Executor` is for tasks that end; these do not. Two ways to keep them, one contract: processes of
this machine (here), actors of a Ray cluster (`runtime.kept_actors`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Protocol

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.outcome import portable

# What a worker does: with its task, a flag that tells it to stop, and somebody to tell how it goes.
Work = Callable[[Any, threading.Event, Callable[[Any], None]], None]


@dataclass(frozen=True)
class Told:
    """A worker says how it goes."""

    number: int
    status: Any


@dataclass(frozen=True)
class Ended:
    """A worker has ended: by itself (None), by an error of its own, or it died (UnavailableError).

    came_up: False for one that found no place to run, and has done nothing.
    """

    number: int
    error: Exception | None
    came_up: bool = True


class Keeper(Protocol):
    """Starts workers and hears from them. `work`, tasks and statuses pickle."""

    def start(self, number: int, task: Any) -> None:
        """Start a worker. Its number must not be that of one that runs."""

    def poll(self, timeout_s: float) -> list[Told | Ended]:
        """Wait until a worker says something, at most so long."""

    def stop(self) -> None:
        """Ask all workers to end what they do."""

    def kill(self) -> None:
        """End all workers at once."""


class LocalKeeper:
    """Keeps workers in processes of their own on this machine.

    A worker is asked to stop by `stop`, by SIGTERM, and by the death of this process. A signal of
    the terminal (SIGINT) is left to this process.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        # A fork of a process with threads may hang; a fresh one does not.
        self._context = multiprocessing.get_context("spawn")
        self._kept: dict[int, tuple[BaseProcess, Connection]] = {}

    def start(self, number: int, task: Any) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(self._work, task, theirs), name=f"worker-{number}", daemon=True
        )
        process.start()
        theirs.close()
        self._kept[number] = process, ours

    def poll(self, timeout_s: float) -> list[Told | Ended]:
        said: list[Told | Ended] = []
        if not self._kept:
            return said
        ready = wait([pipe for _, pipe in self._kept.values()], timeout_s)
        for number, (process, pipe) in list(self._kept.items()):
            if pipe not in ready:
                continue
            try:
                while pipe.poll():
                    status, ended, error = pipe.recv()
                    if not ended:
                        said.append(Told(number, status))
                        continue
                    self._forget(number)
                    said.append(Ended(number, error))
                    break
            except (EOFError, OSError):
                process.join(1.0)
                code = process.exitcode
                self._forget(number)
                told = f"worker {number}, process {process.pid}, died with code {code}"
                said.append(Ended(number, UnavailableError(told)))
        return said

    def pids(self) -> dict[int, int]:
        """Processes of the workers that run."""
        return {number: process.pid or 0 for number, (process, _) in self._kept.items()}

    def stop(self) -> None:
        for _, pipe in self._kept.values():
            try:
                pipe.send("stop")
            except OSError:
                continue

    def kill(self) -> None:
        for number, (process, _) in list(self._kept.items()):
            process.kill()
            self._forget(number)

    def _forget(self, number: int) -> None:
        process, pipe = self._kept.pop(number)
        pipe.close()
        process.join(10.0)


def _serve(work: Work, task: Any, pipe: Connection) -> None:
    """A worker's process, from its beginning to its end."""
    stop = threading.Event()
    lock = threading.Lock()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, asked)

    def listen() -> None:
        # Told to, or who started us is gone.
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        stop.set()

    def send(status: Any, ended: bool, error: Exception | None) -> None:
        try:
            with lock:
                pipe.send((status, ended, error))
        except OSError:
            stop.set()

    threading.Thread(target=listen, name="asked-to-stop", daemon=True).start()
    error: Exception | None = None
    try:
        work(task, stop, lambda status: send(status, False, None))
    except Exception as raised:  # noqa: BLE001 - the border: told as Ended.error
        error = portable(raised)
    send(None, True, error)
    # Threads that wait for the network do not keep the process.
    os._exit(0 if error is None else 1)
