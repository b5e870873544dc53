"""A command as a job of a cluster: the cluster hears what it counts, the lake keeps what became of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import structlog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings, stopping
from lakehouse_ray.cli.options import settings_of
from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.pipeline.job_records import JobRecord, find, keep
from lakehouse_ray.runtime.jobs import job_id
from lakehouse_ray.runtime.session import connect
from lakehouse_ray.settings import secrets_of
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.telemetry.redaction import Redaction

_log = structlog.get_logger()


# Set by Ray for the process of a job: the address of the cluster that runs it.
_ADDRESS = "RAY_ADDRESS"


def recorded(run: Callable[[], int], arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; a record that cannot be written changes nothing."""
    clock = SystemClock()
    opened = _open(clock, arguments)
    with _heard(arguments):
        return run() if opened is None else _recorded(run, clock, *opened)


@contextmanager
def _heard(arguments: Sequence[str]) -> Iterator[None]:
    """Be connected to the cluster from first to last: Ray's exporter hears of work that needs no worker, too."""
    with ExitStack() as stack:
        if os.environ.get(_ADDRESS):
            try:
                settings = settings_of(
                    home=_option(arguments, "--home"), address=_option(arguments, "--address")
                )
                stack.enter_context(connect(settings.ray.address))
            except LakehouseError as error:
                # The command says it itself where it needs the cluster.
                _log.info("the cluster does not hear of this job", error=str(error))
        yield


def _recorded(
    run: Callable[[], int],
    clock: Clock,
    store: ObjectStore,
    record: JobRecord,
    redaction: Redaction,
) -> int:
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
