"""The jobs of the Ray cluster that this process is connected to, by Ray's own client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ray
from ray.experimental import internal_kv

from lakehouse_ray.errors import DeniedError, UnavailableError
from lakehouse_ray.runtime.dashboard_jobs import DashboardJobs

_NAMESPACE = b"lakehouse"


class RayJobs(DashboardJobs):
    """`runtime.jobs.SharedJobs`. Safe for several threads. Connects when it is first asked."""

    def __init__(self) -> None:
        super().__init__("")

    def reserve(self, name: str, value: str) -> str:
        with self._told():
            # An internal call of Ray (2.60), by which Serve keeps its own state: the GCS alone can
            # say who came first, and a job's id cannot be asked for by anything but itself.
            key = name.encode()
            internal_kv._internal_kv_put(key, value.encode(), overwrite=False, namespace=_NAMESPACE)
            return bytes(internal_kv._internal_kv_get(key, namespace=_NAMESPACE)).decode()

    def _address(self) -> str:
        return str(ray.get_runtime_context().gcs_address)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with super()._told():
                yield
        except DeniedError as error:
            # Who asks here has no part in how this process reaches its cluster.
            raise UnavailableError(f"Ray's jobs cannot be asked: {error}") from error
