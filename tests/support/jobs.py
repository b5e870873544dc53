"""A cluster's jobs in memory, for tests of what is asked of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lakehouse_ray.errors import ConflictError, UnavailableError
from lakehouse_ray.runtime.jobs import Job


@dataclass
class MemoryJobs:
    """Keeps what it was asked for; nothing runs. silent: Answers nothing."""

    jobs: dict[str, Job] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    clock_us: int = 1_700_000_000_000_000
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reserve(self, name: str, value: str) -> str:
        self._heard()
        with self.lock:
            return self.kept.setdefault(name, value)

    def submit(
        self,
        job_id: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        self._heard()
        with self.lock:
            if job_id in self.jobs:
                raise ConflictError(f"there is a job {job_id}")
            self.clock_us += 1_000_000
            self.jobs[job_id] = Job(job_id, "RUNNING", self.clock_us, metadata=dict(metadata))
            self.commands[job_id] = list(command)
            self.environments[job_id] = dict(environment)

    def find(self, job_id: str) -> Job | None:
        self._heard()
        return self.jobs.get(job_id)

    def is_adrift(self, job_id: str) -> bool:
        self._heard()
        return False

    def all(self) -> list[Job]:
        self._heard()
        return list(self.jobs.values())

    def stop(self, job_id: str) -> bool:
        self._heard()
        found = self.jobs[job_id]
        if found.ended:
            return False
        self.end(job_id, "STOPPED")
        return True

    def end(self, job_id: str, state: str, **facts: object) -> None:
        ended = {"state": state, "ended_us": self.clock_us, **facts}
        self.jobs[job_id] = replace(self.jobs[job_id], **ended)  # type: ignore[arg-type]

    def log(self, job_id: str, last: int | None = None) -> Iterator[str]:
        self._heard()
        yield from self.logs.get(job_id, [])[-(last or 0) :]

    def tail(self, job_id: str) -> Iterator[str | None]:
        self._heard()
        yield from self.logs.get(job_id, [])

    def secrets(self) -> list[str]:
        return ["rays-own-token"]

    def _heard(self) -> None:
        if self.silent:
            raise UnavailableError("Ray's jobs cannot be asked: ConnectionError")
