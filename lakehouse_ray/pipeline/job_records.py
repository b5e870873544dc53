"""What became of jobs of clusters: a record each in the lake, which outlives the cluster.

The job writes it itself, when it begins and when it ends. One that was killed has a record without
an end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.paths import job_path, jobs_folder

_ERROR_CHARS_MAX = 1_000


@dataclass(frozen=True)
class JobRecord:
    """One job.

    arguments: Of `lakehouse`, the command's name first. node: Where it ran. ended_us, exit_code:
    None as long as it has not said how it ended. error: What it said of why it failed.
    """

    job_id: str
    arguments: tuple[str, ...]
    node: str
    started_us: int
    ended_us: int | None = None
    exit_code: int | None = None
    error: str = ""


def keep(store: ObjectStore, record: JobRecord) -> None:
    told = asdict(record) | {"error": record.error[:_ERROR_CHARS_MAX]}
    store.put(job_path(record.job_id), json.dumps(told).encode())


def find(store: ObjectStore, job_id: str) -> JobRecord | None:
    try:
        return _read(store.get(job_path(job_id)))
    except NotFoundError:
        return None


def records(store: ObjectStore) -> list[JobRecord]:
    """Of all jobs that worked on this lake, the latest first. What cannot be read is left out."""
    return sorted(_records(store), key=lambda one: (one.started_us, one.job_id), reverse=True)


def _records(store: ObjectStore) -> Iterator[JobRecord]:
    for path, _ in store.walk(jobs_folder()):
        try:
            found = _read(store.get(path))
        except NotFoundError:
            continue
        if found is not None:
            yield found


def _read(data: bytes) -> JobRecord | None:
    try:
        told = json.loads(data)
        ended, code = told["ended_us"], told["exit_code"]
        return JobRecord(
            str(told["job_id"]), tuple(map(str, told["arguments"])), str(told["node"]),
            int(told["started_us"]), None if ended is None else int(ended),
            None if code is None else int(code), str(told["error"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None
