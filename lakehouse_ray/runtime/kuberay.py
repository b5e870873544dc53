"""The lake's clusters, jobs and service on KubeRay: how they are, their sizes, and runs of jobs."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import ConflictError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.runtime.kubernetes import CONFLICTS_MAX, KubernetesObjects, Object

# What becomes of a run: its cluster goes at once when it has succeeded, an hour after it has failed; what can
# be read of it stays for a day, or a week. As components/runs of kuberay/ has it.
DELETION_RULES: tuple[dict[str, Any], ...] = tuple(
    {"policy": policy, "condition": {**ended, "ttlSeconds": ttl_s}}
    for ended, cluster_s, self_s in (
        ({"jobStatus": "SUCCEEDED"}, 0, 86_400),
        ({"jobStatus": "FAILED"}, 3_600, 604_800),
        ({"jobDeploymentStatus": "Failed"}, 3_600, 604_800),
    )
    for policy, ttl_s in (("DeleteCluster", cluster_s), ("DeleteSelf", self_s))
)

# The operator's bound: it makes longer names from these.
NAME_LENGTH_MAX = 47
_NAME = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")

# A wait looks away no longer than this from a server that does not answer.
_SILENCE_MAX_S = 120.0
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Group:
    """Workers of one kind. `replicas`: as many as the autoscaler wants now."""

    name: str
    replicas: int
    least: int
    most: int


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster. `ready` and `wanted` count workers; `owner` is the job or service it is for."""

    name: str
    owner: str
    state: str
    ready: int
    wanted: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Job:
    """A run, or what runs are made of (`waiting`).

    state: Ray's (`RUNNING`, `SUCCEEDED`, …), or the operator's where there is none yet.
    """

    name: str
    state: str
    waiting: bool
    ended: bool
    succeeded: bool
    cluster: str
    message: str


@dataclass(frozen=True)
class Service:
    """The query service. `endpoints`: pods that are asked; `upgrading`: a second cluster comes up."""

    name: str
    state: str
    endpoints: int
    upgrading: bool


class KubeRay:
    def __init__(self, objects: KubernetesObjects, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    def clusters(self) -> list[Cluster]:
        return [_cluster(found) for found in self._objects.all("RayCluster")]

    def jobs(self) -> list[Job]:
        return [_job(found) for found in self._objects.all("RayJob")]

    def services(self) -> list[Service]:
        return [_service(found) for found in self._objects.all("RayService")]

    def scale(self, cluster: str, group: str, least: int | None, most: int | None) -> Group:
        """Set between how many workers the autoscaler keeps a group. None: as it is.

        Raises NotFoundError for a group that is none, InvalidError for bounds that cross,
        ConflictError where others kept changing the cluster meanwhile.
        """
        conflict: ConflictError | None = None
        for _ in range(CONFLICTS_MAX):
            seen = self._objects.get("RayCluster", cluster)
            found = _cluster(seen).groups
            at = next((n for n, one in enumerate(found) if one.name == group), None)
            if at is None:
                names = ", ".join(one.name for one in found)
                raise NotFoundError(f"cluster {cluster} has no group {group!r}", f"one of {names}")
            before = found[at]
            wanted = Group(
                group,
                before.replicas,
                before.least if least is None else least,
                before.most if most is None else most,
            )
            if not 0 <= wanted.least <= wanted.most:
                raise InvalidError(f"{group} cannot have {wanted.least} to {wanted.most} workers")
            if wanted == before:
                return before
            path = f"/spec/workerGroupSpecs/{at}"
            changes = [
                {"op": "add", "path": f"{path}/minReplicas", "value": wanted.least},
                {"op": "add", "path": f"{path}/maxReplicas", "value": wanted.most},
            ]
            try:
                return _cluster(self._objects.patch("RayCluster", seen, changes)).groups[at]
            except ConflictError as error:
                conflict = error
        raise ConflictError(
            f"cluster {cluster} was changed by others {CONFLICTS_MAX} times meanwhile; try again"
        ) from conflict

    def submit(self, template: str, name: str = "", arguments: Sequence[str] = ()) -> Job:
        """Start a run of a job that waits.

        name: Of the run. Empty: the job's with the time. arguments: In place of those of its
        command line.

        Raises NotFoundError where there is no such job, InvalidError for one that does not wait,
        ConflictError for a name that is taken.
        """
        found = self._objects.get("RayJob", template)
        if not found["spec"].get("suspend"):
            raise InvalidError(f"{template} is a run itself", "name a job that is suspended")
        moment = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)
        return _job(
            self._objects.create(
                "RayJob", run_of(found, name or f"{template}-{moment:%Y%m%d-%H%M%S}", arguments)
            )
        )

    def wait(self, name: str, timeout_s: float) -> Job:
        """Wait for the end of a run.

        Raises UnavailableError where it has not ended within `timeout_s`, or Kubernetes was silent
        for two minutes; the run goes on then. NotFoundError where it is deleted.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        heard_s = self._clock.monotonic_s()
        while True:
            try:
                seen = self._objects.get("RayJob", name)
                heard_s = self._clock.monotonic_s()
                job = _job(seen)
                left_s = until_s - self._clock.monotonic_s()
                if job.ended or left_s <= 0:
                    break
                for changed in self._objects.changes("RayJob", seen, left_s):
                    heard_s = self._clock.monotonic_s()
                    job = _job(changed)
                    if job.ended:
                        return job
            except UnavailableError:
                now_s = self._clock.monotonic_s()
                if now_s - heard_s > _SILENCE_MAX_S or now_s > until_s:
                    raise
                self._clock.sleep(_PAUSE_S)
                continue
            if self._clock.monotonic_s() - heard_s < _PAUSE_S:
                # A watch that ends at once is not asked for again at once.
                self._clock.sleep(_PAUSE_S)
        if not job.ended:
            raise UnavailableError(
                f"{name} has not ended within {timeout_s:g} s: {job.state}. It goes on; "
                "`lakehouse cluster status` tells how"
            )
        return job


def run_of(template: Object, name: str, arguments: Sequence[str]) -> Object:
    """The manifest of a run. Raises InvalidError for a name that the operator would refuse."""
    if len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name):
        raise InvalidError(
            f"{name!r} is no name of a run",
            f"small letters, digits and `-`, a letter first, {NAME_LENGTH_MAX} at most",
        )
    spec = copy.deepcopy(template["spec"])
    for field in ("suspend", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "jobId"):
        spec.pop(field, None)
    spec["deletionStrategy"] = {"deletionRules": copy.deepcopy(list(DELETION_RULES))}
    if arguments:
        program = shlex.split(spec["entrypoint"])[:2]
        spec["entrypoint"] = shlex.join([*program, *arguments])
    labels = template["metadata"].get("labels", {})
    return {
        "apiVersion": template["apiVersion"],
        "kind": "RayJob",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": spec,
    }


def _cluster(found: Object) -> Cluster:
    status = found.get("status", {})
    owners = found["metadata"].get("ownerReferences", [])
    return Cluster(
        name=found["metadata"]["name"],
        owner="".join(f"{one['kind']} {one['name']}" for one in owners[:1]),
        state=status.get("state") or _condition(status) or "unknown",
        ready=status.get("readyWorkerReplicas", 0),
        wanted=status.get("desiredWorkerReplicas", 0),
        groups=tuple(
            Group(
                group["groupName"],
                group.get("replicas", 0),
                group.get("minReplicas", 0),
                group.get("maxReplicas", 0),
            )
            for group in found["spec"].get("workerGroupSpecs", [])
        ),
    )


def _condition(status: Object) -> str:
    """The last thing that the operator says is so."""
    true = [one for one in status.get("conditions", []) if one.get("status") == "True"]
    return str(true[-1]["type"]) if true else ""


def _job(found: Object) -> Job:
    status = found.get("status", {})
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    return Job(
        name=found["metadata"]["name"],
        state=job if job and deployment not in ("Failed", "Retrying") else deployment or "new",
        waiting=bool(found["spec"].get("suspend")),
        # A try that failed is followed by another until the operator gives up.
        ended=deployment in ("Complete", "Failed", "ValidationFailed"),
        succeeded=deployment == "Complete" and job == "SUCCEEDED",
        cluster=status.get("rayClusterName", ""),
        message=status.get("message", ""),
    )


def _service(found: Object) -> Service:
    status = found.get("status", {})
    pending = status.get("pendingServiceStatus", {}).get("rayClusterName", "")
    return Service(
        name=found["metadata"]["name"],
        state=status.get("serviceStatus") or _condition(status) or "not running",
        endpoints=status.get("numServeEndpoints", 0),
        upgrading=bool(pending and status.get("activeServiceStatus", {}).get("rayClusterName")),
    )
