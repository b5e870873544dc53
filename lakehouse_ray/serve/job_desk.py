"""Jobs as the service submits them: each request once, and no longer than it may take."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import ConflictError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.model.workflows import AnyWorkflow
from lakehouse_ray.runtime.jobs import Job, SharedJobs
from lakehouse_ray.runtime.lake_jobs import LakeJobs, Work
from lakehouse_ray.serve.problems import DeadlineError, NoJobsError
from lakehouse_ray.telemetry.redaction import Redaction

T = TypeVar("T")
Asked = AnyWorkflow

# Ray's client waits for each answer in a thread.
_THREADS = 4
_TIMEOUT_S = 60.0
LOG_LINES_MAX = 10_000


class JobDesk(LakeJobs):
    """Submits and watches the jobs of one lake. Its methods but `run` wait for Ray."""

    def __init__(
        self,
        jobs: SharedJobs,
        *,
        lake: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        redaction: Redaction,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(
            jobs,
            lake=lake,
            command=command,
            environment=environment,
            redaction=redaction,
            clock=clock,
        )
        self._shared = jobs
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
        except NotFoundError as error:
            raise NotFoundError(str(error), "GET /v1/jobs lists them") from error

    def submit(self, asked: Asked, by: str | None, key: str | None) -> tuple[Job, bool]:
        """Start a job. Returns it, and whether it is new.

        by: Id of the caller's key. key: The caller's own name for this one request: what is asked
        again with it is the same job. Raises InvalidError where something else was.
        """
        work = work_of(asked)
        job_id = self.name(work)
        if key is not None:
            job_id = self._reserve(work, by, key, job_id)
            if (found := self._shared.find(job_id)) is not None:
                return found, False
        try:
            return self.start(work, job_id, by), True
        except ConflictError:
            if key is None:
                raise
            return self.find(job_id), False  # the same request came twice at once

    def document(self, job: Job) -> dict[str, Any]:
        path = f"/v1/jobs/{job.id}"
        links = {"self": path, "logs": f"{path}/logs", "stop": f"{path}/stop"}
        return {**super().document(job), "links": links}

    def _reserve(self, work: Work, by: str | None, key: str, job_id: str) -> str:
        """The id of the one job that a caller's key means."""
        name = _hash(self._lake, by or "", key)
        parameters = orjson.dumps(work.parameters, option=orjson.OPT_SORT_KEYS).decode()
        mine = {"id": job_id, "of": _hash(work.workflow, parameters)}
        held = orjson.loads(self._shared.reserve(f"job-{name}", orjson.dumps(mine).decode()))
        if held["of"] != mine["of"]:
            raise InvalidError(
                f"this Idempotency-Key was given to another request, which is job {held['id']}",
                "a new request needs a new key",
            )
        return str(held["id"])


def work_of(asked: Asked) -> Work:
    told = asked.model_dump(mode="json", exclude={"workflow"}, exclude_defaults=True)
    return Work(asked.workflow, asked.subject(), told, asked.arguments())


def _hash(*parts: str) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()
