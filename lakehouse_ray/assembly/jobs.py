"""From settings to what a job of a cluster is given: where the lake is, and whose it is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from lakehouse_ray.settings import Settings, spell_environment

# A job answers no questions, keeps no schedules, and runs where it was submitted.
_NOT_OF_JOBS = (
    "LAKEHOUSE_SERVE__",
    "LAKEHOUSE_RAY__",
    "LAKEHOUSE_SCHEDULES",
    "LAKEHOUSE_SCHEDULER__",
)


def job_environment(settings: Settings, without: Collection[str] = ()) -> dict[str, str]:
    """Variables of a job that are no secret: Ray's dashboard shows them.

    without: Beginnings of names that are left to what the cluster's nodes have.
    """
    left_out = (*_NOT_OF_JOBS, *without)
    return {
        name: value
        for name, value in spell_environment(settings, secrets=False).items()
        if not name.startswith(left_out)
    }


def lake_of(settings: Settings) -> str:
    """What tells this lake from others: 16 hexadecimal digits."""
    where = f"{settings.catalog_uri}\n{settings.storage_root}"
    return hashlib.sha256(where.encode()).hexdigest()[:16]
