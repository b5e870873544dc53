"""From settings to what keeps schedules: the schedules, the log, the lease, and where runs are done."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Mapping
from os import getpid

from lakehouse_ray.assembly.jobs import job_environment
from lakehouse_ray.assembly.stores import catalog_access
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.schedules import LEASE, RUN_LOG, Schedule, make_schedule
from lakehouse_ray.runtime.jobs import Jobs
from lakehouse_ray.runtime.places import ClusterJobs, LocalProcesses
from lakehouse_ray.settings import Settings, secrets_of, spell_environment
from lakehouse_ray.storage.catalog import TableCatalog
from lakehouse_ray.storage.event_log import EventLog
from lakehouse_ray.storage.lease import Lease
from lakehouse_ray.telemetry.redaction import Redaction

LOGS = "schedule-logs"
# A run keeps no schedules.
_OWN = ("LAKEHOUSE_SCHEDULES", "LAKEHOUSE_SCHEDULER__")
# `lakehouse` here, and on every node that has what this one has; -P: no module of the working folder.
_COMMAND = (sys.executable, "-P", "-m", "lakehouse_ray.cli")


def schedules_of(settings: Settings) -> Mapping[str, Schedule]:
    """Enabled schedules by name. Raises InvalidError where one of all of them cannot be."""
    found: dict[str, Schedule] = {}
    names: set[str] = set()
    for one in settings.schedules:
        if one.name in names:
            raise InvalidError(f"two schedules are called {one.name}", "names tell them apart")
        names.add(one.name)
        made = make_schedule(
            one.name, one.cron, one.workflow, one.parameters, catch_up=one.catch_up,
            overlap=one.overlap, timeout_s=one.timeout_s, interrupted=one.interrupted,
        )  # fmt: skip
        if one.enabled:
            found[one.name] = made
    return found


def find_schedule(settings: Settings, name: str) -> Schedule:
    schedules = schedules_of(settings)
    if name not in schedules:
        raise InvalidError(
            f"there is no enabled schedule {name[:60]!r}",
            f"there are: {', '.join(schedules)}" if schedules else "settings have no [[schedules]]",
        )
    return schedules[name]


def runner_name() -> str:
    """Of this process, unlike any other's."""
    return f"{socket.gethostname()}:{getpid()}:{secrets.token_hex(4)}"


def open_run_log(writer: Writer, runner: str) -> EventLog:
    return EventLog(
        RUN_LOG, writer.catalog, writer.store, writer.committer_factory(RUN_LOG, runner)()
    )


def open_lease(writer: Writer, runner: str) -> Lease:
    # A catalog of its own: it is asked from another thread.
    catalog = TableCatalog(catalog_access(writer.settings))
    return Lease(catalog, LEASE, runner, writer.settings.scheduler.lease_s, writer.clock)


def local_processes(settings: Settings) -> LocalProcesses:
    told = spell_environment(settings, secrets=True)
    return LocalProcesses(
        _COMMAND,
        {name: value for name, value in told.items() if not name.startswith(_OWN)},
        settings.home / LOGS,
        settings.scheduler.logs_max,
        Redaction(secrets_of(settings)),
    )


def cluster_jobs(settings: Settings, jobs: Jobs) -> ClusterJobs:
    redaction = Redaction([*secrets_of(settings), *jobs.secrets()])
    return ClusterJobs(jobs, _COMMAND, job_environment(settings), redaction)
