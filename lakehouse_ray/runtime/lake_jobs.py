"""Jobs of one cluster as the lake names and tells of them: what each does, and whose it is."""

from __future__ import annotations

import itertools
import re
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.timespan import format_time, from_us
from lakehouse_ray.runtime.jobs import Job, Jobs
from lakehouse_ray.telemetry.redaction import Redaction

_MESSAGE_MAX = 4000
_LOG_BYTES_MAX = 1 << 20

# Metadata of a job of ours, as Ray keeps it.
_LAKE, _WORKFLOW, _PARAMETERS, _BY = "lakehouse.lake", "workflow", "parameters", "by"
# It becomes a path of Ray's, and the name of a file.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,119}", re.ASCII)


@dataclass(frozen=True)
class Work:
    """What a job is to do.

    workflow, subject: Parts of its name; letters, digits, `_` and `-`. parameters: As it is told.
    arguments: Of its command. folder: Sent with it.
    """

    workflow: str
    subject: str
    parameters: Mapping[str, Any]
    arguments: Sequence[str]
    folder: Path | None = None


@dataclass(frozen=True)
class LogPart:
    """Lines of a log from the one with the number `offset` on; `next` is where the rest begins."""

    offset: int
    next: int
    lines: Sequence[str]


class LakeJobs:
    """Submits and watches jobs. Its methods wait for Ray, and raise what `Jobs` raises."""

    def __init__(
        self,
        jobs: Jobs,
        *,
        lake: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        redaction: Redaction,
        own_only: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """lake: Tells its jobs from those of other lakes on the cluster. Empty: it is not known.

        command: What comes before a job's arguments on the cluster's nodes. environment: Of each
        job: where the lake is. It is shown by Ray's dashboard. own_only: Know of no others.
        """
        self._jobs = jobs
        self._lake = lake
        self._command = command
        self._environment = environment
        self._redaction = redaction
        self._own_only = own_only
        self._clock = clock or SystemClock()

    def start(self, work: Work, job_id: str, by: str | None = None) -> Job:
        """Start a job. Raises InvalidError for what is no name, ConflictError for one taken."""
        if not is_name(job_id):
            raise InvalidError(
                f"{job_id[:130]!r} is no name of a job",
                "letters, digits, `-`, `_` and `.`; 120 at most",
            )
        metadata = {
            _WORKFLOW: work.workflow,
            _PARAMETERS: _spell(work.parameters),
            _BY: by or "",
        }
        if self._lake:
            metadata[_LAKE] = self._lake
        self._jobs.submit(
            job_id,
            [*self._command, *work.arguments],
            self._environment,
            metadata,
            work.folder,
        )
        return self.find(job_id)

    def name(self, work: Work) -> str:
        """A new name: what it does, of what, when (UTC), and something that no other has."""
        when = from_us(self._clock.now_us()).strftime("%Y%m%dT%H%M%S")
        return f"{work.workflow}-{work.subject}-{when}-{secrets.token_hex(4)}"

    def find(self, job_id: str) -> Job:
        """Raises NotFoundError for what is no job of this lake."""
        # Asked for by Ray in a path: nothing but a name may get there.
        found = self._jobs.find(job_id) if is_name(job_id) else None
        if found is None or not self._knows(found):
            raise NotFoundError(f"there is no job {job_id[:100]!r}")
        return found

    def all(self) -> list[Job]:
        """The jobs of this lake that the cluster remembers, the latest first."""
        own = [job for job in self._jobs.all() if self._knows(job)]
        return sorted(own, key=lambda job: (job.started_us or 0, job.id), reverse=True)

    def stop(self, job_id: str) -> Job:
        """Ask a job to end; one that has ended stays as it is."""
        self.find(job_id)
        self._jobs.stop(job_id)
        return self.find(job_id)

    def last_lines(self, job_id: str, lines_max: int) -> list[str]:
        """What it said last, without secrets."""
        return [self._redaction(line) for line in self._jobs.log(job_id, lines_max)]

    def redacted(self, line: str) -> str:
        return self._redaction(line)

    def log(self, job_id: str, offset: int | None, lines_max: int) -> LogPart:
        """Lines from `offset` on, or the last ones where it is None."""
        self.find(job_id)
        lines = self._jobs.log(job_id)
        if offset is None:
            last = deque(enumerate(lines), maxlen=lines_max)
            first = last[0][0] if last else 0
            found = [line for _, line in last]
        else:
            first = offset
            found = list(itertools.islice(lines, offset, offset + lines_max))
        # A secret is hidden in a whole line; then lines are left out, never parts of one.
        told = [self._redaction(line) for line in found]
        count = _fitting(told if offset is not None else told[::-1])
        if offset is None:
            first, told = first + len(told) - count, told[len(told) - count :]
        else:
            told = told[:count]
        return LogPart(first, first + len(told), told)

    def document(self, job: Job) -> dict[str, Any]:
        """What is told of a job."""
        return {
            "id": job.id,
            "workflow": job.metadata.get(_WORKFLOW, ""),
            "parameters": _parameters(job.metadata.get(_PARAMETERS, "{}")),
            "state": job.state,
            "submitted": None if job.started_us is None else format_time(job.started_us),
            "ended": None if job.ended_us is None else format_time(job.ended_us),
            "exit_code": job.exit_code,
            "message": self._message(job.message),
            "by": job.metadata.get(_BY) or None,
        }

    def _knows(self, job: Job) -> bool:
        return not self._own_only or job.metadata.get(_LAKE) == self._lake

    def _message(self, text: str) -> str:
        told = "\n".join(self._redaction(line) for line in text.splitlines())
        # What went wrong stands at the end of a log.
        half = _MESSAGE_MAX // 2
        return told if len(told) <= _MESSAGE_MAX else f"{told[:half]}\n…\n{told[-half:]}"


def is_name(text: str) -> bool:
    """Whether a text may be the name of a job."""
    return _NAME.fullmatch(text) is not None


def _spell(parameters: Mapping[str, Any]) -> str:
    return orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS).decode()


def _parameters(text: str) -> Any:
    # Whoever submits to a cluster may call something so.
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}


def _fitting(lines: Sequence[str]) -> int:
    """How many of the first lines an answer may have; one at least, so that readers get on."""
    size = 0
    for count, line in enumerate(lines):
        size += len(line.encode()) + 1
        if size > _LOG_BYTES_MAX and count:
            return count
    return len(lines)
