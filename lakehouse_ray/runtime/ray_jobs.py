"""The jobs of the Ray cluster that this process is connected to, by Ray's own client."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
import requests
from ray._private.authentication.http_token_authentication import (
    get_auth_headers_if_auth_enabled,
)
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.experimental import internal_kv
from ray.job_submission import JobSubmissionClient

from lakehouse_ray.errors import ConflictError, UnavailableError
from lakehouse_ray.runtime.jobs import Job
from lakehouse_ray.runtime.session import without_address

_NAMESPACE = b"lakehouse"
# To connect, and without any byte.
_TIMEOUT_S = (5.0, 20.0)
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

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=_TIMEOUT_S, **options)

    def _raise_error(self, r: Any) -> None:
        raise _StatusError(r.status_code, str(r.text))


class RayJobs:
    """Safe for several threads. Connects when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: _Client | None = None

    def reserve(self, name: str, value: str) -> str:
        with _told():
            # An internal call of Ray (2.60), by which Serve keeps its own state: the GCS alone can
            # say who came first, and a job's id cannot be asked for by anything but itself.
            key = name.encode()
            internal_kv._internal_kv_put(key, value.encode(), overwrite=False, namespace=_NAMESPACE)
            return bytes(internal_kv._internal_kv_get(key, namespace=_NAMESPACE)).decode()

    def submit(
        self,
        job_id: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        with _told():
            try:
                self._connected().submit_job(
                    # A shell reads it: each part is quoted.
                    entrypoint=shlex.join(command),
                    submission_id=job_id,
                    runtime_env={"env_vars": dict(environment)},
                    metadata=dict(metadata),
                )
            except _StatusError as error:
                if "already exists" in error.text:
                    raise ConflictError(f"there is a job {job_id} already") from error
                raise

    def find(self, job_id: str) -> Job | None:
        with _told():
            try:
                return _job(self._connected().get_job_info(job_id))
            except _StatusError as error:
                if error.status == 404:
                    return None
                raise

    def all(self) -> list[Job]:
        with _told():
            found = self._connected().list_jobs()
        # Drivers that were not submitted have no such id.
        return [_job(details) for details in found if details.submission_id]

    def stop(self, job_id: str) -> bool:
        with _told():
            try:
                return bool(self._connected().stop_job(job_id))
            except _StatusError as error:
                if error.status == 404:
                    return False
                raise

    def log(self, job_id: str) -> Iterator[str]:
        """In pieces: Ray's client would have all of it in memory."""
        with _told():
            client = self._connected()
            # Ray (2.60) takes a submission's id here, and then asks for the node all the same.
            node_id = client.get_job_info(job_id).driver_node_id
            if node_id is None:
                return  # nothing has begun that could say something
            with requests.get(
                f"{client.get_address()}/api/v0/logs/file",
                params={"node_id": node_id, "filename": f"job-driver-{job_id}.log", "lines": "-1"},
                headers=get_auth_headers_if_auth_enabled({}),
                stream=True,
                timeout=_TIMEOUT_S,
            ) as answer:
                if answer.status_code != 200:
                    if "not found" in answer.text:
                        return
                    raise _StatusError(answer.status_code, str(answer.text))
                yield from _lines(answer.iter_content(64 << 10))

    def secrets(self) -> list[str]:
        """What no log may show: the cluster's token."""
        loader = AuthenticationTokenLoader.instance()
        return [loader.get_raw_token()] if loader.has_token() else []

    def _connected(self) -> _Client:
        with self._lock:
            if self._client is None:
                # Ray lets its variables go before what it is told.
                with without_address():
                    self._client = _Client(ray.get_runtime_context().gcs_address)
            return self._client


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors of Ray and of HTTP as one of ours; none of them holds a token."""
    try:
        yield
    except _StatusError as error:
        # Of a traceback, the end says what it was.
        told = error.text.strip()[-_ERROR_TEXT_MAX:]
        raise UnavailableError(f"Ray answered {error.status}: {told}") from error
    except (OSError, RuntimeError, AuthenticationError, requests.RequestException) as error:
        raise UnavailableError(f"Ray's jobs cannot be asked: {type(error).__name__}") from error


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        state=details.status.value,
        started_us=None if details.start_time is None else details.start_time * 1000,
        ended_us=None if details.end_time is None else details.end_time * 1000,
        exit_code=details.driver_exit_code,
        message=details.message or "",
        metadata=dict(details.metadata or {}),
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
