"""From settings to the application, and the application in this process."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from lakehouse_ray.access.keys import KeyRing, read_keys
from lakehouse_ray.assembly.jobs import job_environment, lake_of
from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import ConflictError, DeniedError, InvalidError
from lakehouse_ray.kernels.cadence import planned_pause_us
from lakehouse_ray.model.schedules import Cron
from lakehouse_ray.runtime.jobs import SharedJobs
from lakehouse_ray.serve.app import create_app
from lakehouse_ray.serve.cache.in_redis import RedisLevel
from lakehouse_ray.serve.cache.in_store import StoreLevel
from lakehouse_ray.serve.cache.level import Level
from lakehouse_ray.serve.job_desk import JobDesk
from lakehouse_ray.serve.lake_state import LakeState, due_after_s
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.service import Source
from lakehouse_ray.serve.streams.hub import Hub, StreamLimits
from lakehouse_ray.settings import Settings, secrets_of
from lakehouse_ray.telemetry.redaction import Redaction

# `lakehouse` on every node that has what this one has; -P: no module of the working folder.
COMMAND = (sys.executable, "-P", "-m", "lakehouse_ray.cli")
# Connections that wait to be accepted.
_BACKLOG = 2048
# Of requests in progress when the service is told to stop.
_DRAIN_S = 10
# A zip that `/v1/why` reads again; nothing stops it on the way.
_FILE_BYTES_MAX = 8 << 20


def limits_of(settings: Settings) -> Limits:
    serve = settings.serve
    return Limits(
        rows_max=serve.rows_max,
        binary_rows_max=serve.binary_rows_max,
        answer_bytes_max=serve.answer_bytes_max,
        statement_timeout_s=serve.statement_timeout_s,
        send_timeout_s=serve.send_timeout_s,
        body_bytes_max=serve.body_bytes_max,
        statements=serve.statements,
        sql_statements=serve.sql_statements,
        sql_unconfined=serve.sql_unconfined,
        sql_files_bytes_max=serve.sql_files_bytes_max,
        waiting_max=serve.waiting_max,
        cache_bytes=serve.cache_bytes,
        memory_bytes=serve.statement_memory_mb << 20,
        closed_days_held_s=serve.closed_days_held_s,
    )


def stream_limits_of(settings: Settings) -> StreamLimits:
    serve = settings.serve
    return StreamLimits(
        connections_max=serve.stream_connections_max,
        streams_max=serve.streams_max,
        poll_s=serve.stream_poll_s,
        messages_per_s=serve.stream_messages_per_s,
        send_timeout_s=serve.send_timeout_s,
        ping_every_s=serve.stream_ping_s,
        pong_within_s=serve.stream_pong_s,
    )


def app_of(settings: Settings, *, tells_id: bool = True, jobs: SharedJobs | None = None) -> FastAPI:
    """The application over the lake of the settings.

    settings: With an absolute home. jobs: Of the cluster that runs the application.
    """
    reader = Reader(settings)
    files = replace(reader.files, size_max=_FILE_BYTES_MAX)
    source = Source(
        reader.find,
        reader.find_all,
        reader.store,
        settings.home / "tmp",
        files,
        verify_files=settings.query.verify_files,
    )
    keys = KeyRing(settings.keys_path, reader.clock) if needs_keys(settings) else None
    # A web page cannot know a key; without keys it must not get here by a name of its own.
    named = ("localhost", "127.0.0.1", "[::1]", settings.serve.host)
    hosts = None if keys is not None else named
    desk = _desk(settings, jobs)
    return create_app(
        source,
        limits_of(settings),
        keys=keys,
        hosts=hosts,
        clock=reader.clock,
        tells_id=tells_id,
        levels=_levels(settings, reader),
        origins=[name.strip() for name in settings.serve.origins.split(",") if name.strip()],
        streams=stream_limits_of(settings),
        desk=desk,
        state=LakeState(
            reader.find,
            # Its own: questions of clients must not wait for it, nor have its memory.
            lambda: Reader(settings).lake,
            reader.clock,
            name=settings.telemetry.lake,
            threshold=settings.quality.threshold,
            every_s=settings.telemetry.state_every_s,
            jobs=desk.all if isinstance(desk, JobDesk) else None,
            publish_within_s=publish_within(settings),
        ),
    )


def publish_within(settings: Settings) -> Callable[[int], float | None]:
    """Return for how long nothing may be published, asked at a moment (UTC, microseconds); None where
    settings do not say. Raises InvalidError for a cron that cannot be."""
    publishing = [
        Cron(one.cron)
        for one in settings.schedules
        if one.enabled and one.workflow in ("ingest", "update")
    ]

    def within_s(now_us: int) -> float | None:
        if settings.telemetry.publish_within_s:
            return settings.telemetry.publish_within_s
        pause_us = planned_pause_us(publishing, now_us)
        return None if pause_us is None else due_after_s(pause_us)

    return within_s


def _desk(settings: Settings, jobs: SharedJobs | None) -> JobDesk | str:
    if not settings.serve.jobs:
        return "it only reads: serve.jobs is false"
    if jobs is None:
        return "there is no Ray here: `lakehouse serve` without --no-ray has one"
    return JobDesk(
        jobs,
        lake=lake_of(settings),
        command=COMMAND,
        environment=job_environment(settings),
        redaction=Redaction([*secrets_of(settings), *jobs.secrets()]),
    )


def _levels(settings: Settings, reader: Reader) -> list[Level]:
    """Where answers are kept beyond one process, as far as they are set."""
    serve = settings.serve
    levels: list[Level] = []
    url = serve.redis_url.get_secret_value()
    if url:
        levels.append(
            RedisLevel(url, reader.clock, timeout_s=serve.redis_timeout_s, ttl_s=serve.cache_ttl_s)
        )
    if serve.cache_store_bytes:
        levels.append(
            StoreLevel(
                reader.store, settings.home / "tmp", reader.clock,
                bytes_max=serve.cache_store_bytes, ttl_s=serve.cache_ttl_s,
            )
        )  # fmt: skip
    return levels


def needs_keys(settings: Settings) -> bool:
    return settings.serve.require_keys or not is_loopback(settings.serve.host)


def is_loopback(host: str) -> bool:
    """Whether an address leads to this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(settings: Settings) -> None:
    """Raises DeniedError where keys are needed and none holds: nobody could ask, or everybody.

    Also where the file of keys may be read by others. InvalidError where jobs would show a password
    to Ray's dashboard.
    """
    if settings.serve.jobs and urlsplit(settings.catalog.uri).password is not None:
        raise InvalidError(
            "with serve.jobs the address of the catalog must not hold its password: jobs get the "
            "address from Ray, which shows it",
            "give the password by PGPASSWORD or PGPASSFILE on each node",
        )
    if not needs_keys(settings):
        return
    now_us = SystemClock().now_us()
    if not any(key.state(now_us) == "active" for key in read_keys(settings.keys_path)):
        raise DeniedError(
            f"{settings.serve.host} needs API keys, and there is none that holds. "
            '`lakehouse keys create "whose it is"` makes one; 127.0.0.1 is open to this machine alone'
        )


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that takes connections; a free port for 0.

    Raises ConflictError where another process has the port, InvalidError for a host that is not
    this machine's.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        made = socket.create_server(
            (str(address[0]), port), family=family, backlog=_BACKLOG, reuse_port=False
        )
    except OSError as error:
        if isinstance(error, socket.gaierror) or "assign" in str(error):
            raise InvalidError(f"{host} is no address of this machine", "127.0.0.1") from error
        if isinstance(error, PermissionError):
            raise DeniedError(f"port {port} may not be listened at: {error}") from error
        raise ConflictError(f"port {port} is taken; --port gives another: {error}") from error
    with contextlib.closing(made):
        yield made


def url_of(found: socket.socket) -> str:
    host, port = found.getsockname()[:2]
    return url_at(host, port)


def url_at(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run_here(settings: Settings, found: socket.socket) -> None:
    """Serve in this process until it is told to stop; questions in progress are answered first."""
    server_of(app_of(settings)).run(sockets=[found])


def server_of(app: FastAPI) -> uvicorn.Server:
    """What speaks HTTP and websocket for an application of `create_app`."""
    limits: StreamLimits = app.state.hub.limits
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_S,
        ws_ping_interval=limits.ping_every_s,
        ws_ping_timeout=limits.pong_within_s,
        ws_max_size=limits.message_bytes_max,
        # Events are small and many: to compress them costs more time than it saves.
        ws_per_message_deflate=False,
    )
    return _Server(config, app.state.hub)


class _Server(uvicorn.Server):
    """Says goodbye to websockets first: by itself it would say that the service restarts (1012)."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._hub.end()
        await super().shutdown(sockets)
