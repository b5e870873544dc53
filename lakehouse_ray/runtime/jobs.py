"""What a cluster's jobs are to who submits and watches them. Facts and a contract; no Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

# Ray's own words.
JobState = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


# Set by Ray in the environment of a job's process.
_JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Job:
    """One submitted job.

    started_us: When Ray took it. ended_us: None as long as it has not ended.
    exit_code: Of its process, once that has ended. message: What Ray says of it, with the end of
    its log where it failed. metadata, command: As it was submitted.
    """

    id: str
    state: JobState
    started_us: int | None = None
    ended_us: int | None = None
    exit_code: int | None = None
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ("STOPPED", "SUCCEEDED", "FAILED")


class Jobs(Protocol):
    """The jobs of one cluster. All of it raises UnavailableError where the cluster is silent."""

    def submit(
        self,
        job_id: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        """Start a job. Raises ConflictError where there is one of that id already.

        folder: What is sent with it, as its working folder.
        """

    def find(self, job_id: str) -> Job | None: ...

    def is_adrift(self, job_id: str) -> bool:
        """Whether the machine that ran its process is gone; a head that began anew says RUNNING still."""

    def all(self) -> list[Job]:
        """Every job of the cluster, whoever submitted it, in no order."""

    def secrets(self) -> list[str]:
        """What must not be read in a log: the cluster's token."""

    def stop(self, job_id: str) -> bool:
        """Ask a job to end. Returns whether it was there and had not ended."""

    def log(self, job_id: str, last: int | None = None) -> Iterator[str]:
        """The lines of what a job said; nothing where it has said nothing.

        last: Only so many of the latest.
        """

    def tail(self, job_id: str) -> Iterator[str | None]:
        """The lines of what a job says, from the first one on, until it has ended.

        None each time when it has said nothing for some seconds.
        """


class SharedJobs(Jobs, Protocol):
    """The same, for several submitters that must agree."""

    def reserve(self, name: str, value: str) -> str:
        """Keep `value` under a name, unless there is one already; return the one that is kept.

        Of several at once, all are told the same.
        """


def job_id() -> str:
    """Of the job whose entrypoint this process is; empty where it is none's."""
    try:
        told = json.loads(os.environ.get(_JOB_MARK, "{}"))
        return str(told["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return ""
