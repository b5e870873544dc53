"""A command as a job of a cluster: what became of it is kept in the lake."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings, stopping
from lakehouse_ray.cli.options import settings_of
from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.pipeline.job_records import JobRecord, find, keep
from lakehouse_ray.runtime.jobs import job_id
from lakehouse_ray.settings import secrets_of
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.telemetry.redaction import Redaction

_log = structlog.get_logger()


def recorded(run: Callable[[], int], arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; a record that cannot be written changes nothing."""
    clock = SystemClock()
    opened = _open(clock, arguments)
    if opened is None:
        return run()
    store, record, redaction = opened
    code = endings.UNEXPECTED
    try:
        code = run()
    except SystemExit as ended:
        told = stopping.told()
        code = told if told is not None else ended.code if isinstance(ended.code, int) else code
        raise
    finally:
        error = redaction(endings.TOLD[-1]) if endings.TOLD else ""
        _keep(store, replace(record, ended_us=clock.now_us(), exit_code=code, error=error))
    return code


def _open(
    clock: Clock, arguments: Sequence[str]
) -> tuple[ObjectStore, JobRecord, Redaction] | None:
    name = job_id()
    try:
        settings = settings_of(home=_option(arguments, "--home"))
        store, redaction = Writer(settings).store, Redaction(secrets_of(settings))
        told = tuple(redaction(part) for part in arguments)
        record = JobRecord(name, told, platform.node(), clock.now_us())
        # What a job starts inherits its mark; the job alone has a record.
        if not name or find(store, name) is not None:
            return None
    except LakehouseError:
        return None  # the command says it itself
    return (store, record, redaction) if _keep(store, record) else None


def _keep(store: ObjectStore, record: JobRecord) -> bool:
    try:
        keep(store, record)
    except LakehouseError as error:
        _log.warning("the lake does not keep what becomes of this job", error=str(error))
        return False
    return True


def _option(arguments: Sequence[str], name: str) -> str:
    for number, part in enumerate(arguments):
        if part == name:
            return next(iter(arguments[number + 1 : number + 2]), "")
        if part.startswith(f"{name}="):
            return part.removeprefix(f"{name}=")
    return ""
