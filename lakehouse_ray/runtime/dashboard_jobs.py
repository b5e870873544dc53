"""The jobs of a Ray cluster by the HTTP API of its dashboard, from inside of it or from elsewhere."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from ray._private.authentication.http_token_authentication import (
    get_auth_headers_if_auth_enabled,
)
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from websockets.exceptions import ConnectionClosedOK, WebSocketException
from websockets.sync.client import connect as open_websocket

from lakehouse_ray.errors import ConflictError, DeniedError, InvalidError, UnavailableError
from lakehouse_ray.runtime.jobs import Job
from lakehouse_ray.runtime.session import (
    authenticated,
    dashboard_of_environment,
    without_address,
)

DEFAULT_URL = "http://127.0.0.1:8265"
# To connect, and without any byte.
_CONNECT_S, _READ_S = 5.0, 20.0
# A follower looks after the job this often where it says nothing.
_QUIET_S = 5.0
# What Ray (2.60) puts before the first line of a job; in later lines it is the job's.
_RAYS_OWN = re.compile(
    r"\d{4}-\d\d-\d\d [\d:,]+\tINFO job_manager\.py:\d+ -- Runtime env is setting up\.$"
    r"|Running entrypoint for job [\w.-]+: "
)
_LINE_BYTES_MAX = 16 << 10
_ERROR_TEXT_MAX = 500


class _StatusError(Exception):
    """An answer of the dashboard that is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class _Client(JobSubmissionClient):
    """Ray's client, which waits for ever and tells one status from another by its text (2.60)."""

    def __init__(self, url: str, timeout_s: tuple[float, float]) -> None:
        self._timeout_s = timeout_s
        super().__init__(url)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=self._timeout_s, **options)

    def _raise_error(self, r: Any) -> None:
        raise _StatusError(r.status_code, str(r.text))


@contextlib.contextmanager
def dashboard_at(url: str, silence_s_max: float) -> Iterator[DashboardJobs]:
    """The jobs of the cluster whose dashboard is at `url`, with the token of the environment.

    url: `http://host:port`, or without http. Empty: what Ray's variables say, else this machine's.
    silence_s_max: How long one answer may take at most.

    Raises InvalidError where it is no address or another server's, UnavailableError where nobody
    answers, DeniedError where the token is refused.
    """
    found = _url(url or dashboard_of_environment() or DEFAULT_URL)
    # Its client tells of every package that it sends, by a logger with a level of its own.
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with authenticated():
        jobs = DashboardJobs(found, silence_s_max)
        _check(found, jobs.timeout_s)
        yield jobs


class DashboardJobs:
    """`runtime.jobs.Jobs`. Safe for several threads. Connects when it is first asked."""

    def __init__(self, url: str, silence_s_max: float = _READ_S) -> None:
        self._url = url
        self.timeout_s = (min(_CONNECT_S, silence_s_max), min(_READ_S, silence_s_max))
        self._client: _Client | None = None

    def submit(
        self,
        job_id: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        runtime_env: dict[str, Any] = {"env_vars": dict(environment)}
        if folder is not None:
            runtime_env["working_dir"] = str(folder)
        with self._told():
            try:
                self._connected().submit_job(
                    # A shell reads it: each part is quoted.
                    entrypoint=shlex.join(command),
                    submission_id=job_id,
                    runtime_env=runtime_env,
                    metadata=dict(metadata),
                )
            except _StatusError as error:
                if "already exists" in error.text:
                    raise ConflictError(f"there is a job {job_id} already") from error
                raise

    def find(self, job_id: str) -> Job | None:
        with self._told():
            try:
                return _job(self._connected().get_job_info(job_id))
            except _StatusError as error:
                if error.status == 404:
                    return None
                raise

    def is_adrift(self, job_id: str) -> bool:
        with self._told():
            client = self._connected()
            node_id = client.get_job_info(job_id).driver_node_id
            answer = requests.get(
                f"{client.get_address()}/nodes",
                params={"view": "summary"},
                headers=get_auth_headers_if_auth_enabled({}),
                timeout=self.timeout_s,
            )
            if answer.status_code != 200:
                raise _StatusError(answer.status_code, str(answer.text))
            nodes = [node["raylet"] for node in answer.json()["data"]["summary"]]
        alive = {node["nodeId"] for node in nodes if node.get("state") == "ALIVE"}
        # Of no node at all: a head that has just begun and has heard of none yet.
        return bool(node_id and alive and node_id not in alive)

    def all(self) -> list[Job]:
        with self._told():
            found = self._connected().list_jobs()
        # Drivers that were not submitted have no such id.
        return [_job(details) for details in found if details.submission_id]

    def stop(self, job_id: str) -> bool:
        with self._told():
            try:
                return bool(self._connected().stop_job(job_id))
            except _StatusError as error:
                if error.status == 404:
                    return False
                raise

    def log(self, job_id: str, last: int | None = None) -> Iterator[str]:
        """In pieces: Ray's client would have all of it in memory."""
        with self._told():
            client = self._connected()
            # Ray (2.60) takes a submission's id here, and then asks for the node all the same.
            node_id = client.get_job_info(job_id).driver_node_id
            if node_id is None:
                return  # nothing has begun that could say something
            with requests.get(
                f"{client.get_address()}/api/v0/logs/file",
                params={
                    "node_id": node_id,
                    "filename": f"job-driver-{job_id}.log",
                    "lines": str(-1 if last is None else last),
                },
                headers=get_auth_headers_if_auth_enabled({}),
                stream=True,
                timeout=self.timeout_s,
            ) as answer:
                if answer.status_code != 200:
                    # The log was on the disk of a node; of one that is gone Ray (2.60) says 500.
                    if "not found" in answer.text or "Agent for node id" in answer.text:
                        return
                    raise _StatusError(answer.status_code, str(answer.text))
                for line in _lines(answer.iter_content(64 << 10)):
                    if not _RAYS_OWN.match(line):
                        yield line

    def tail(self, job_id: str) -> Iterator[str | None]:
        """Raises UnavailableError where the connection breaks before the job has ended."""
        with self._told():
            url = self._connected().get_address().replace("http", "ws", 1)
            rest = b""
            with open_websocket(
                f"{url}/api/jobs/{job_id}/logs/tail",
                additional_headers=get_auth_headers_if_auth_enabled({}),
                # Ray (2.60) hands the offer to compress on to a server behind it, and then does not
                # understand its frames; and answers no ping while it only sends.
                compression=None,
                ping_interval=None,
                close_timeout=1,
                open_timeout=self.timeout_s[1],
                proxy=None,
            ) as connection:
                while True:
                    try:
                        said = connection.recv(timeout=min(_QUIET_S, self.timeout_s[1]))
                    except TimeoutError:
                        yield None
                        continue
                    except ConnectionClosedOK:
                        break
                    *whole, rest = (rest + str(said).encode()).split(b"\n")
                    yield from (line for line in map(_text, whole) if not _RAYS_OWN.match(line))
                    rest = rest[:_LINE_BYTES_MAX]
            if rest:
                yield _text(rest)

    def secrets(self) -> list[str]:
        """What no log may show: the cluster's token."""
        loader = AuthenticationTokenLoader.instance()
        return [loader.get_raw_token()] if loader.has_token() else []

    def _address(self) -> str:
        return self._url

    def _connected(self) -> _Client:
        # Two threads may make one each; either will do.
        if self._client is None:
            # Ray lets its variables go before what it is told.
            with without_address():
                self._client = _Client(self._address(), self.timeout_s)
        return self._client

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of Ray and of HTTP as one of ours; none of them holds a token."""
        try:
            yield
        except _StatusError as error:
            # Of a traceback, the end says what it was.
            told = error.text.strip()[-_ERROR_TEXT_MAX:]
            raise UnavailableError(f"Ray answered {error.status}: {told}") from error
        except AuthenticationError as error:
            raise _denied(self._url) from error
        except (OSError, RuntimeError, requests.RequestException, WebSocketException) as error:
            raise UnavailableError(f"Ray's jobs cannot be asked: {type(error).__name__}") from error


def _url(text: str) -> str:
    spelled = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(spelled)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or parts.username is not None or not re.fullmatch(r"[!-~]+", spelled):
        raise InvalidError(
            f"{text[:100]!r} is no address of Ray's dashboard", f"such as {DEFAULT_URL}"
        )
    return spelled.rstrip("/")


def _check(url: str, timeout_s: tuple[float, float]) -> None:
    """Ask who answers at `url`, and whether it takes our token."""
    try:
        answer = requests.get(
            f"{url}/api/version", headers=get_auth_headers_if_auth_enabled({}), timeout=timeout_s
        )
        status = answer.status_code
        is_ray = status == 200 and "ray_version" in answer.json()
    except (requests.ConnectionError, requests.Timeout) as error:
        raise UnavailableError(
            f"no Ray head answers at {url}: {type(error).__name__}. Name its dashboard with "
            "--address or LAKEHOUSE_RAY__DASHBOARD_URL; from elsewhere forward its port 8265"
        ) from error
    except (requests.RequestException, AuthenticationError, ValueError):
        status, is_ray = 0, False
    if status in (401, 403):
        raise _denied(url)
    if not is_ray:
        raise InvalidError(
            f"what answers at {url} is no Ray dashboard", "port 8265 of a head, by default"
        )


def _denied(url: str) -> DeniedError:
    return DeniedError(
        f"the Ray cluster at {url or 'hand'} refuses the token. Set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token"
    )


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        state=details.status.value,
        started_us=None if details.start_time is None else details.start_time * 1000,
        ended_us=None if details.end_time is None else details.end_time * 1000,
        exit_code=details.driver_exit_code,
        message=details.message or "",
        metadata=dict(details.metadata or {}),
        command=details.entrypoint or "",
    )


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Whole lines; of one that is too long, its beginning."""
    rest = b""
    for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        for part in whole:
            yield _text(rest + part)
            rest = b""
        # What is beyond the bound is dropped now, so that memory stays bounded.
        rest = (rest + last)[:_LINE_BYTES_MAX]
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    return line[:_LINE_BYTES_MAX].decode("utf-8", "replace").rstrip("\r")
