"""The head of the cluster this process is connected to: whether it lives, what its autoscaler says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import (  # type: ignore[attr-defined]
    GetClusterStatusReply,
)
from ray.exceptions import RayError

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.session import check_answers

# Ray (2.60) ends the whole process, without a word to it, once the head has been silent for a minute.
# A head that is made anew, with its tables kept in Redis, is back before that, or it is too late.
GONE_AFTER_S = 40.0
_ASK_TIMEOUT_S = 3.0


class Head:
    """Asked every few seconds by whoever would wait for it without end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._address = ray.get_runtime_context().gcs_address
        self._silent_since_s: float | None = None

    def check(self) -> bool:
        """Whether it answers now. Raises UnavailableError where it has not for `GONE_AFTER_S`."""
        try:
            check_answers(self._address, _ASK_TIMEOUT_S)
        except UnavailableError as error:
            now_s = self._clock()
            if self._silent_since_s is None:
                self._silent_since_s = now_s
            if now_s - self._silent_since_s < GONE_AFTER_S:
                return False
            raise UnavailableError(
                f"the head of the Ray cluster at {self._address} has not answered for "
                f"{now_s - self._silent_since_s:.0f} s, so the run was given up. What was committed "
                "stays; start the cluster and run the same command again, it goes on from there"
            ) from error
        self._silent_since_s = None
        return True

    def refuses(self, resources: Mapping[str, float]) -> bool:
        """Whether the autoscaler (v2) says that it cannot bring a node for a request of these."""
        try:
            told = GcsClient(self._address).get_cluster_status(timeout_s=_ASK_TIMEOUT_S)
        except (RayError, RuntimeError, OSError):
            return False
        status = GetClusterStatusReply()
        status.ParseFromString(told)
        return any(
            all(request.resources_bundle.get(name) == value for name, value in resources.items())
            for request in status.autoscaling_state.infeasible_resource_requests
        )
