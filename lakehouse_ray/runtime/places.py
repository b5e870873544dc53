"""Where a scheduled run is done: in a process of this machine, or as a job of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lakehouse_ray.errors import ConflictError, UnavailableError
from lakehouse_ray.runtime import bound
from lakehouse_ray.runtime.jobs import Job, Jobs

_TAIL_BYTES = 8_000
_LINES = 5
_ERROR_CHARS_MAX = 1_000
_SAID = re.compile(r"^(?:error|hint): ")


@dataclass(frozen=True)
class Ending:
    """exit_code: 0: it succeeded; negative: the signal that ended it; None: nobody knows.

    error: What it said of why it failed. lost: It did not end of itself: it was stopped, or nobody
    knows of it.
    """

    exit_code: int | None
    error: str = ""
    lost: bool = False


class Place(Protocol):
    """name: As the log spells it. outlives: Whether runs go on when this process is gone."""

    name: str
    outlives: bool

    def start(self, run_id: str, arguments: Sequence[str], metadata: Mapping[str, str]) -> None:
        """Raises UnavailableError where it cannot be started. Once per run_id."""

    def ending(self, run_id: str) -> Ending | None:
        """How a run ended; None as long as it goes on."""

    def stop(self, run_id: str, *, at_once: bool = False) -> None:
        """Tell a run to end. at_once: Without letting it finish what it is at."""


class LocalProcesses:
    """Processes of this one, which are told to end when it dies.

    command: What `lakehouse` is. logs: Folder of what they say, a file each, the latest `logs_max`.
    """

    name = "local"
    outlives = False

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        logs: Path,
        logs_max: int,
        redaction: Callable[[str], str],
    ) -> None:
        self._command = command
        self._environment = environment
        self._logs = logs
        self._logs_max = logs_max
        self._redaction = redaction
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()

    def start(self, run_id: str, arguments: Sequence[str], metadata: Mapping[str, str]) -> None:
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            self._thin_out()
            with self._log(run_id).open("wb") as log:
                self._running[run_id] = subprocess.Popen(
                    [
                        sys.executable, "-I", "-S", bound.__file__, str(os.getpid()),
                        *self._command, *arguments,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self._environment},
                    # A terminal's Ctrl-C is the runner's to pass on.
                    start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise UnavailableError(f"{run_id} cannot be started: {error}") from error

    def ending(self, run_id: str) -> Ending | None:
        code = self._running[run_id].poll()
        if code is None:
            return None
        del self._running[run_id]
        lost = code != 0 and run_id in self._stopped
        self._stopped.discard(run_id)
        return Ending(code, "" if code == 0 else self._said(run_id), lost)

    def stop(self, run_id: str, *, at_once: bool = False) -> None:
        self._stopped.add(run_id)
        process = self._running[run_id]
        with contextlib.suppress(ProcessLookupError):
            if at_once:
                # It leads a session of its own, so this is it and what it started.
                os.killpg(process.pid, signal.SIGKILL)
            elif process.poll() is None:
                process.terminate()

    def _log(self, run_id: str) -> Path:
        return self._logs / f"{run_id}.log"

    def _said(self, run_id: str) -> str:
        """The error it told of, or else its last lines."""
        try:
            with self._log(run_id).open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError as error:
            return f"its log cannot be read: {error}"
        told = [line for line in lines if _SAID.match(line)] or [line for line in lines if line]
        return "\n".join(map(self._redaction, told[-_LINES:]))[-_ERROR_CHARS_MAX:]

    def _thin_out(self) -> None:
        kept = {self._log(run_id) for run_id in self._running}
        found = [path for path in self._logs.glob("*.log") if path not in kept]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[self._logs_max - 1 :]:
            path.unlink(missing_ok=True)


class ClusterJobs:
    """Jobs of a Ray cluster. They outlive the runner; the next one finds them by their ids."""

    name = "ray"
    outlives = True

    def __init__(
        self,
        jobs: Jobs,
        command: Sequence[str],
        environment: Mapping[str, str],
        redaction: Callable[[str], str],
    ) -> None:
        self._jobs = jobs
        self._command = command
        self._environment = environment
        self._redaction = redaction

    def start(self, run_id: str, arguments: Sequence[str], metadata: Mapping[str, str]) -> None:
        # Ray keeps one job of an id: an answer that was lost does not make a second one.
        with contextlib.suppress(ConflictError):
            self._jobs.submit(run_id, [*self._command, *arguments], self._environment, metadata)

    def ending(self, run_id: str) -> Ending | None:
        job = self._jobs.find(run_id)
        if job is None:
            return Ending(None, "the cluster knows no such job", lost=True)
        return self._ended(job) if job.ended else None

    def stop(self, run_id: str, *, at_once: bool = False) -> None:
        self._jobs.stop(run_id)

    def _ended(self, job: Job) -> Ending:
        if job.state == "SUCCEEDED":
            return Ending(0)
        lines = [self._redaction(line) for line in job.message.splitlines()]
        told = "\n".join(lines)[-_ERROR_CHARS_MAX:]
        # A job that was lost with its node has no exit code, and Ray calls it failed.
        lost = job.state == "STOPPED" or job.exit_code is None
        return Ending(job.exit_code, told, lost)
