"""Jobs as the service submits them: their names, whose they are, and what is told of them."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import ConflictError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.model.timespan import format_time, from_us
from lakehouse_ray.model.workflows import AnyWorkflow
from lakehouse_ray.runtime.jobs import Job, Jobs
from lakehouse_ray.serve.problems import DeadlineError, NoJobsError
from lakehouse_ray.telemetry.redaction import Redaction

T = TypeVar("T")
Asked = AnyWorkflow

# Ray's client waits for each answer in a thread.
_THREADS = 4
_TIMEOUT_S = 60.0
_MESSAGE_MAX = 4000
LOG_LINES_MAX = 10_000
_LOG_BYTES_MAX = 1 << 20

# Metadata of a job of ours, as Ray keeps it.
_LAKE, _WORKFLOW, _PARAMETERS, _BY = "lakehouse.lake", "workflow", "parameters", "by"


@dataclass(frozen=True)
class LogPart:
    """Lines of a log from the one with the number `offset` on; `next` is where the rest begins."""

    offset: int
    next: int
    lines: Sequence[str]


class JobDesk:
    """Submits and watches the jobs of one lake. Its methods but `run` wait for Ray."""

    def __init__(
        self,
        jobs: Jobs,
        *,
        lake: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        redaction: Redaction,
        clock: Clock | None = None,
    ) -> None:
        """lake: Tells its jobs from those of other lakes on the cluster.

        command: What `lakehouse` is on the cluster's nodes. environment: Of each job: where the
        lake is. It is shown by Ray's dashboard.
        """
        self._jobs = jobs
        self._lake = lake
        self._command = command
        self._environment = environment
        self._redaction = redaction
        self._clock = clock or SystemClock()
        self._threads = ThreadPoolExecutor(_THREADS, "jobs")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[], T]) -> T:
        """Call what waits for Ray. Raises DeadlineError, NoJobsError where it does not answer."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await future
        except TimeoutError as error:
            raise DeadlineError(f"Ray gave no answer within {_TIMEOUT_S:g} s") from error
        except UnavailableError as error:
            raise NoJobsError(str(error)) from error

    def submit(self, asked: Asked, by: str | None, key: str | None) -> tuple[Job, bool]:
        """Start a job. Returns it, and whether it is new.

        by: Id of the caller's key. key: The caller's own name for this one request: what is asked
        again with it is the same job. Raises InvalidError where something else was.
        """
        job_id = self._name(asked)
        if key is not None:
            job_id = self._reserve(asked, by, key, job_id)
            if (found := self._jobs.find(job_id)) is not None:
                return found, False
        is_new = True
        try:
            self._jobs.submit(
                job_id,
                [*self._command, *asked.arguments()],
                self._environment,
                {
                    _LAKE: self._lake,
                    _WORKFLOW: asked.workflow,
                    _PARAMETERS: _parameters(asked).decode(),
                    _BY: by or "",
                },
            )
        except ConflictError:
            if key is None:
                raise
            is_new = False  # the same request came twice at once
        return self.find(job_id), is_new

    def find(self, job_id: str) -> Job:
        """Raises NotFoundError for what is no job of this lake."""
        # Asked for by Ray in a path: nothing but a name may get there.
        found = self._jobs.find(job_id) if is_name(job_id) else None
        if found is None or found.metadata.get(_LAKE) != self._lake:
            raise NotFoundError(f"there is no job {job_id[:100]!r}", "GET /v1/jobs lists them")
        return found

    def all(self) -> list[Job]:
        """The jobs of this lake that the cluster remembers, the latest first."""
        own = [job for job in self._jobs.all() if job.metadata.get(_LAKE) == self._lake]
        return sorted(own, key=lambda job: (job.started_us or 0, job.id), reverse=True)

    def stop(self, job_id: str) -> Job:
        """Ask a job to end; one that has ended stays as it is."""
        self.find(job_id)
        self._jobs.stop(job_id)
        return self.find(job_id)

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
        path = f"/v1/jobs/{job.id}"
        return {
            "id": job.id,
            "workflow": job.metadata.get(_WORKFLOW, ""),
            "parameters": orjson.loads(job.metadata.get(_PARAMETERS, "{}")),
            "state": job.state,
            "submitted": None if job.started_us is None else format_time(job.started_us),
            "ended": None if job.ended_us is None else format_time(job.ended_us),
            "exit_code": job.exit_code,
            "message": self._message(job.message),
            "by": job.metadata.get(_BY) or None,
            "links": {"self": path, "logs": f"{path}/logs", "stop": f"{path}/stop"},
        }

    def _message(self, text: str) -> str:
        told = "\n".join(self._redaction(line) for line in text.splitlines())
        # What went wrong stands at the end of a log.
        half = _MESSAGE_MAX // 2
        return told if len(told) <= _MESSAGE_MAX else f"{told[:half]}\n…\n{told[-half:]}"

    def _reserve(self, asked: Asked, by: str | None, key: str, job_id: str) -> str:
        """The id of the one job that a caller's key means."""
        name = _hash(self._lake, by or "", key)
        mine = {"id": job_id, "of": _hash(_parameters(asked).decode())}
        held = orjson.loads(self._jobs.reserve(f"job-{name}", orjson.dumps(mine).decode()))
        if held["of"] != mine["of"]:
            raise InvalidError(
                f"this Idempotency-Key was given to another request, which is job {held['id']}",
                "a new request needs a new key",
            )
        return str(held["id"])

    def _name(self, asked: Asked) -> str:
        when = from_us(self._clock.now_us()).strftime("%Y%m%dT%H%M%S")
        return f"{asked.workflow}-{asked.subject()}-{when}-{secrets.token_hex(4)}"


def is_name(text: str) -> bool:
    """Whether a text may be the name of a job of ours: it becomes a path of Ray's."""
    letters = text.replace("-", "").replace("_", "")
    return 0 < len(text) <= 120 and letters.isascii() and letters.isalnum()


def _parameters(asked: Asked) -> bytes:
    told = asked.model_dump(mode="json", exclude={"workflow"}, exclude_defaults=True)
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)


def _fitting(lines: Sequence[str]) -> int:
    """How many of the first lines an answer may have; one at least, so that readers get on."""
    size = 0
    for count, line in enumerate(lines):
        size += len(line.encode()) + 1
        if size > _LOG_BYTES_MAX and count:
            return count
    return len(lines)


def _hash(*parts: str) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()
