"""What a cluster's jobs are to who submits and watches them. Facts and a contract; no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

# Ray's own words.
JobState = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


@dataclass(frozen=True)
class Job:
    """One submitted job.

    started_us: When Ray took it. ended_us: None as long as it has not ended.
    exit_code: Of its process, once that has ended. message: What Ray says of it, with the end of
    its log where it failed. metadata: As it was submitted.
    """

    id: str
    state: JobState
    started_us: int | None = None
    ended_us: int | None = None
    exit_code: int | None = None
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state in ("STOPPED", "SUCCEEDED", "FAILED")


class Jobs(Protocol):
    """The jobs of one cluster. All of it raises UnavailableError where the cluster is silent."""

    def reserve(self, name: str, value: str) -> str:
        """Keep `value` under a name, unless there is one already; return the one that is kept.

        Of several at once, all are told the same.
        """

    def submit(
        self,
        job_id: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        """Start a job. Raises ConflictError where there is one of that id already."""

    def find(self, job_id: str) -> Job | None: ...

    def all(self) -> list[Job]:
        """Every job of the cluster, whoever submitted it, in no order."""

    def secrets(self) -> list[str]:
        """What must not be read in a log: the cluster's token."""

    def stop(self, job_id: str) -> bool:
        """Ask a job to end. Returns whether it was there and had not ended."""

    def log(self, job_id: str) -> Iterator[str]:
        """The lines of what a job said, from the first one; nothing where it has said nothing."""
