"""The connection of this process to Ray: an own local one, or a cluster's.

Reads and sets environment variables of Ray alone: that is how Ray is told what its API has no
argument for.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray._private import services
from ray._private.state import available_resources_per_node
from ray._private.utils import write_ray_address
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.runtime import own_folder
from lakehouse_ray.runtime.cluster import ClusterView, NodeView
from lakehouse_ray.runtime.head import AUTH_MODE, AUTH_TOKEN_PATH, check_answers, own_token, watched
from lakehouse_ray.runtime.ray_metrics import measured_on_ray

# Ray's smallest is 75 MiB. Results of work are small manifests; data goes to the store.
OBJECT_STORE_BYTES = 128 << 20

# Set by Ray in the environment of a job's entrypoint, with the job's runtime environment in it.
_JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_ADDRESS = "RAY_ADDRESS"
_API_SERVER_ADDRESS = "RAY_API_SERVER_ADDRESS"
_AUTH_TOKEN = "RAY_AUTH_TOKEN"
_BREAKPOINT = "PYTHONBREAKPOINT"

# What ray.init raises where Ray cannot be started or joined.
_START_ERRORS = (OSError, RuntimeError, ValueError, ray.exceptions.RayError)


@dataclass(frozen=True)
class RaySession:
    """A live connection.

    own: Whether Ray was started here and ends with this session.
    inside_job: Whether this process is the entrypoint of a Ray job.
    address: GCS address of the cluster.
    node_id: The node this process runs on.
    dashboard_url: Empty where there is none.
    inherited_env: Environment that every worker of an own local Ray has without asking.
    """

    own: bool
    inside_job: bool
    address: str
    node_id: str
    dashboard_url: str = ""
    inherited_env: Mapping[str, str] = field(default_factory=dict)

    def view(self) -> ClusterView:
        return replace(view_cluster(), may_grow=not self.own)


def inside_job() -> bool:
    """Whether this process is the entrypoint of a Ray job (`ray job submit`)."""
    return _JOB_MARK in os.environ


@contextmanager
def connect(
    address: str = "",
    *,
    num_cpus: int | None = None,
    object_store_bytes: int = OBJECT_STORE_BYTES,
    include_dashboard: bool = False,
    log_to_driver: bool = False,
    worker_env: Mapping[str, str] | None = None,
    timeout_s: float = 15.0,
) -> Iterator[RaySession]:
    """Connect this process to Ray for as long as the context lasts.

    address: `host:port` of a cluster's GCS, or `auto` for the cluster on this machine. Empty or
        `local`: the cluster that runs this job, else an own local Ray. A connection that this process has already is used and left as it is.
    num_cpus, object_store_bytes, include_dashboard, worker_env: Of an own local Ray alone.
        `worker_env` is what its workers find in their environment from birth.
    log_to_driver: Show the workers' output on stderr.
    timeout_s: Time a cluster has to answer. Starting an own local Ray has Ray's own limits.

    An own local Ray lives in a folder of its own that is removed at the end, and is guarded by a
    random token that only this user can read. Raises UnavailableError where the cluster does not
    answer or Ray does not start, DeniedError where it refuses the token, InvalidError where
    `address` is no address.
    """
    if ray.is_initialized():
        yield _describe(own=False, inherited_env={})
    elif address in ("", "local") and not inside_job():
        with _own_ray(
            worker_env or {},
            num_cpus=num_cpus,
            object_store_memory=object_store_bytes,
            include_dashboard=include_dashboard,
            log_to_driver=log_to_driver,
        ) as session:
            yield session
    else:
        with _joined(_resolve(address), log_to_driver, timeout_s) as session:
            yield session


def view_cluster(*, free: bool = False) -> ClusterView:
    """The nodes of the cluster this process is connected to, the dead ones included.

    free: Also ask what nobody has reserved; that lags behind by some hundred milliseconds.
    """
    nodes: list[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    left = available_resources_per_node() if free else {}  # type: ignore[no-untyped-call]
    return ClusterView(tuple(_node_view(node, left.get(node["NodeID"])) for node in nodes))


@contextmanager
def _own_ray(
    worker_env: Mapping[str, str], *, log_to_driver: bool, **options: object
) -> Iterator[RaySession]:
    own_folder.remove_leftovers()
    with contextlib.ExitStack() as stack:
        temp_dir = own_folder.make()
        stack.callback(shutil.rmtree, temp_dir, ignore_errors=True)
        token = temp_dir / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        auth = {AUTH_MODE: "token", AUTH_TOKEN_PATH: str(token), _AUTH_TOKEN: None}
        stack.enter_context(_authenticated_by(auth))
        stack.enter_context(_stdout_left_alone())
        stack.callback(ray.shutdown)
        try:
            # Whatever is in the environment while Ray starts, its workers inherit. The process
            # itself gets its own back: Polars, for one, must not be narrowed here.
            with (
                _environment(worker_env),
                _kept_sigterm(),
                _only_what_is_used(log_to_driver=log_to_driver),
            ):
                ray.init(
                    address="local",
                    _temp_dir=str(temp_dir),
                    logging_level=logging.ERROR,
                    log_to_driver=log_to_driver,
                    **options,  # type: ignore[arg-type]
                )
        except _START_ERRORS as error:
            raise UnavailableError(
                f"Ray did not start on this machine: {error}. "
                "`lakehouse doctor` checks what it needs"
            ) from error
        session = _describe(own=True, inherited_env=worker_env)
        # As `ray start` does (2.60). What runs a job asks this file which cluster is its own; without
        # it, any Ray of this machine may be taken.
        write_ray_address(session.address, str(temp_dir))
        (node,) = ray.nodes()  # type: ignore[no-untyped-call]
        exporter = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        stack.callback(own_folder.tell_prometheus(temp_dir, exporter).unlink, missing_ok=True)
        stack.enter_context(measured_on_ray())
        yield session


@contextmanager
def _joined(address: str, log_to_driver: bool, timeout_s: float) -> Iterator[RaySession]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_authenticated_by(_auth_of_environment()))
        check_answers(address, timeout_s)
        stack.enter_context(_stdout_left_alone())
        stack.enter_context(watched(address))
        stack.callback(ray.shutdown)
        try:
            with _kept_sigterm():
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=log_to_driver)
        except _START_ERRORS as error:
            raise UnavailableError(
                f"the Ray cluster at {address} could not be joined: {error}. A driver runs on a "
                "machine of the cluster; from elsewhere submit a job"
            ) from error
        stack.enter_context(measured_on_ray())
        yield _describe(own=False, inherited_env={})


def _resolve(address: str) -> str:
    """The address to join: what was asked for, or the cluster that runs this job.

    `ray://` is left out: through a client server every wait of a pool is a round trip, and Ray
    itself advises against it for work that takes long.
    """
    if address in ("", "local", "auto"):
        address = os.environ.get(_ADDRESS, "") or "auto"
    host, _, port = address.rpartition(":")
    is_one = re.fullmatch(r"[^/\s]+", host) and re.fullmatch(r"\d{1,5}", port, re.ASCII)
    if address != "auto" and not (is_one and 0 < int(port) < 1 << 16):
        raise InvalidError(
            f"{address!r} is no address of a Ray cluster",
            "host:port of its GCS (6379 by default) or auto, on a machine of the cluster; from "
            "elsewhere submit a job",
        )
    try:
        found = services.canonicalize_bootstrap_address(address)
    except ConnectionError as error:
        raise UnavailableError(f"no Ray cluster runs on this machine: {error}") from error
    return str(found or address)


def _auth_of_environment() -> dict[str, str | None]:
    """Make explicit how to authenticate, so that no file in the home folder decides it."""
    if os.environ.get(AUTH_MODE):
        return {}
    told = os.environ.get(_AUTH_TOKEN) or os.environ.get(AUTH_TOKEN_PATH)
    return {AUTH_MODE: "token" if told else "disabled"}


@contextmanager
def _authenticated_by(changes: Mapping[str, str | None]) -> Iterator[None]:
    # Ray sets these two by itself and leaves them: no usage statistics, and `breakpoint()` in
    # its own debugger.
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", _BREAKPOINT: os.environ.get(_BREAKPOINT)}
    try:
        with _environment({**changes, **quiet}):
            _reload_auth()
            own_token()  # where there is none, no client of Ray's says it well
            yield
    finally:
        # What this process connects to next must not see this token.
        _reload_auth()


def _reload_auth() -> None:
    """Make Ray read its authentication variables again: it keeps what it saw first."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _describe(*, own: bool, inherited_env: Mapping[str, str]) -> RaySession:
    context = ray.get_runtime_context()
    node = ray._private.worker._global_node
    url = node.webui_url if node is not None else None
    return RaySession(
        own=own,
        inside_job=inside_job(),
        address=context.gcs_address,
        node_id=context.get_node_id(),
        dashboard_url=f"http://{url}" if url else "",
        inherited_env=dict(inherited_env),
    )


def _node_view(node: Mapping[str, Any], left: Mapping[str, float] | None) -> NodeView:
    resources = node["Resources"]
    return NodeView(
        node_id=str(node["NodeID"]),
        cpus=float(resources.get("CPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        alive=bool(node["Alive"]),
        ip=str(node["NodeManagerAddress"]),
        object_store_bytes=int(resources.get("object_store_memory", 0)),
        labels=dict(node.get("Labels") or {}),
        cpus_free=None if left is None else float(left.get("CPU", 0)),
        memory_free_bytes=None if left is None else int(left.get("memory", 0)),
    )


def authenticated() -> AbstractContextManager[None]:
    """Let Ray's clients use the token that the environment names, and no other."""
    return _authenticated_by(_auth_of_environment())


def dashboard_of_environment() -> str:
    """The url of a dashboard, where Ray's own variables say one."""
    for name in (_API_SERVER_ADDRESS, _ADDRESS):
        if os.environ.get(name, "").startswith(("http://", "https://")):
            return os.environ[name]
    return ""


def without_address() -> AbstractContextManager[None]:
    """Hide the variables that decide which cluster Ray's clients ask, whatever they are told."""
    return _environment({_ADDRESS: None, _API_SERVER_ADDRESS: None})


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set (None: remove) environment variables and put back what was there."""
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _stdout_left_alone() -> Iterator[None]:
    """Send to stderr what Ray (2.60) would print on stdout: output of workers, reports of deaths.

    `log_to_driver=False` silences the workers but not the reports, and a report in the middle of a
    JSON document on stdout breaks it.
    """
    original = ray._private.worker.print_to_stdstream

    def on_stderr(data: dict[str, Any], ignore_prefix: bool) -> None:
        original({**data, "is_err": True}, ignore_prefix)

    ray._private.worker.print_to_stdstream = on_stderr
    try:
        yield
    finally:
        ray._private.worker.print_to_stdstream = original


@contextmanager
def _only_what_is_used(*, log_to_driver: bool) -> Iterator[None]:
    """Choose of a node what ray.init (2.60) cannot be told.

    Its agent takes a free port for HTTP. It takes 52365 else, and where another Ray of this machine
    has that, goes on without; jobs, which it starts, are then refused. No process scales a cluster
    that is one machine, and none reads the workers' output where nobody wants it: each takes a
    second of a CPU to start.
    """
    original = ray._private.parameter.RayParams
    chosen = functools.partial(
        original,
        dashboard_agent_listen_port=0,
        no_monitor=True,
        include_log_monitor=log_to_driver,  # type: ignore[arg-type]
    )
    ray._private.parameter.RayParams = chosen  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        ray._private.parameter.RayParams = original  # type: ignore[misc]


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Keep the process's own SIGTERM handler, which ray.init replaces.

    Where it has none, Ray's stays: it exits in order, so that contexts are left and Ray ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before not in (signal.SIG_DFL, None):
            signal.signal(signal.SIGTERM, before)
