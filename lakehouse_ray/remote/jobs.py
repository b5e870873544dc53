"""Workflows as Ray jobs of the cluster behind the service: submitted, watched, stopped."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypedDict, cast

from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.model.workflows import parse_workflow
from lakehouse_ray.remote.answers import read_document
from lakehouse_ray.remote.questions import Question
from lakehouse_ray.remote.reply import Reply

WorkflowName = Literal["ingest", "update", "fold", "build", "quality", "maintain"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,120}")
_PAGE = 1000
_EVERY_S = 2.0
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class JobFacts(TypedDict):
    """state: In Ray's words. Times are ISO and UTC. exit_code: That of the command."""

    id: str
    workflow: str
    parameters: dict[str, Any]
    state: Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
    submitted: str | None
    ended: str | None
    exit_code: int | None
    message: str
    by: str | None
    links: dict[str, str]


# Inside of these classes `list` is a method.
Listed = list[JobFacts]
Lines = list[str]


class AsyncRemoteJobs:
    """`AsyncRemoteLake.jobs`: methods to be awaited.

    All of it raises NotFoundError where the service takes no jobs, DeniedError where the key may
    not submit them, UnavailableError where the cluster does not answer.
    """

    def __init__(self, ask: Callable[[Question], Awaitable[Reply]]) -> None:
        self._ask = ask

    async def submit(
        self, workflow: WorkflowName, *, key: str | None = None, **parameters: object
    ) -> JobFacts:
        """Start a job; of the same `key` there is one alone, however often it is asked for.

        parameters: Those of the command, as `/docs` of the service has them. key: Without one, a
        request that is sent again on its way is still one job.

        Raises InvalidError for parameters that cannot be, and a key of another request.
        """
        body = {"workflow": workflow, **parameters}
        parse_workflow(body)
        headers = {"Idempotency-Key": key if key is not None else uuid.uuid4().hex}
        return _facts(await self._ask(Question("/v1/jobs", body=body, headers=headers)))

    async def list(
        self, workflow: WorkflowName | None = None, state: str | None = None, limit: int = 50
    ) -> Listed:
        """The latest jobs that the cluster remembers, the latest first; 500 at most."""
        told = {"workflow": workflow, "state": state, "limit": str(limit)}
        params = {name: value for name, value in told.items() if value is not None}
        found = read_document(await self._ask(Question("/v1/jobs", params)))
        return cast(Listed, found["jobs"])

    async def get(self, job_id: str) -> JobFacts:
        return _facts(await self._ask(Question(_path(job_id))))

    async def stop(self, job_id: str) -> JobFacts:
        """Ask a job to end. What it has committed stays."""
        return _facts(await self._ask(Question(f"{_path(job_id)}/stop", body={})))

    async def log(self, job_id: str, tail: int | None = None) -> Lines:
        """The lines of what it has said so far, or the last ones; secrets are hidden."""
        path = f"{_path(job_id)}/logs"
        if tail is not None:
            found = read_document(await self._ask(Question(path, {"tail": str(tail)})))
            return [str(line) for line in found["lines"]]
        lines: Lines = []
        while True:
            params = {"offset": str(len(lines)), "limit": str(_PAGE)}
            found = read_document(await self._ask(Question(path, params)))
            if not found["lines"]:
                return lines
            lines += found["lines"]

    async def wait(
        self, job_id: str, *, timeout_s: float | None = None, every_s: float = _EVERY_S
    ) -> JobFacts:
        """Return a job when it has ended, however. Raises UnavailableError after `timeout_s`."""
        loop = asyncio.get_running_loop()
        until_s = None if timeout_s is None else loop.time() + timeout_s
        while (job := await self.get(job_id))["state"] not in _ENDED:
            if until_s is not None and loop.time() >= until_s:
                raise UnavailableError(f"{job_id} is {job['state']} after {timeout_s:g} s")
            await asyncio.sleep(every_s)
        return job


class RemoteJobs:
    """`RemoteLake.jobs`: the same, blocking."""

    def __init__(self, jobs: AsyncRemoteJobs, run: Callable[[Coroutine[Any, Any, Any]], Any]):
        self._jobs = jobs
        self._run = run

    def submit(
        self, workflow: WorkflowName, *, key: str | None = None, **parameters: object
    ) -> JobFacts:
        """As of `AsyncRemoteJobs`, as all of these."""
        return cast(JobFacts, self._run(self._jobs.submit(workflow, key=key, **parameters)))

    def list(
        self, workflow: WorkflowName | None = None, state: str | None = None, limit: int = 50
    ) -> Listed:
        return cast(Listed, self._run(self._jobs.list(workflow, state, limit)))

    def get(self, job_id: str) -> JobFacts:
        return cast(JobFacts, self._run(self._jobs.get(job_id)))

    def stop(self, job_id: str) -> JobFacts:
        return cast(JobFacts, self._run(self._jobs.stop(job_id)))

    def log(self, job_id: str, tail: int | None = None) -> Lines:
        return cast(Lines, self._run(self._jobs.log(job_id, tail)))

    def wait(
        self, job_id: str, *, timeout_s: float | None = None, every_s: float = _EVERY_S
    ) -> JobFacts:
        return cast(
            JobFacts, self._run(self._jobs.wait(job_id, timeout_s=timeout_s, every_s=every_s))
        )


def _path(job_id: str) -> str:
    if not _NAME.fullmatch(job_id):
        raise InvalidError(f"not the id of a job: {job_id[:100]!r}", "`jobs.list()` has them")
    return f"/v1/jobs/{job_id}"


def _facts(reply: Reply) -> JobFacts:
    return cast(JobFacts, read_document(reply))
