"""What the operator (KubeRay 1.7) refuses when it sees an object, beyond its schemas, written down anew.

An API server takes such an object; the operator then leaves it alone with an event that nobody reads.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.manifests import RENDERED, Manifest, clusters, named, of_kind, rendered, title

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
NAME_LENGTH_MAX = {"RayCluster": 52, "RayJob": 47, "RayService": 47, "RayCronJob": 47}
# Off by default: a field that needs one makes the whole object invalid.
GATED = {"networkPolicy", "historyServerOptions"}


def cluster_faults(cluster: dict[str, Any]) -> list[str]:
    head = cluster["headGroupSpec"]
    groups = cluster["workerGroupSpecs"]
    env = {one["name"] for one in head["template"]["spec"]["containers"][0]["env"]}
    found = [f"gate of {field}" for field in sorted(GATED & set(cluster))]
    for group in (head, *groups):
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            found.append("autoscaler v2 restarts no containers")
        if "labels" in group["rayStartParams"]:
            found.append("labels are a field of the group")
    for group in groups:
        if group["minReplicas"] > group["maxReplicas"]:
            found.append(f"{group['groupName']}: min over max")
        if group.get("suspend"):
            found.append(f"{group['groupName']}: suspended beside an autoscaler")
    if "RAY_enable_autoscaler_v2" in env:
        found.append("autoscaler's version is a field")
    if env & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}:
        found.append("Redis is given by gcsFaultToleranceOptions")
    if "storage" in cluster.get("gcsFaultToleranceOptions", {}):
        found.append("storage is for rocksdb")
    if cluster.get("authOptions", {}).get("mode") == "token" and not cluster.get("rayVersion"):
        found.append("a token needs rayVersion")
    return found


def job_faults(spec: dict[str, Any]) -> list[str]:
    found = []
    shut_down = spec.get("shutdownAfterJobFinishes", False)
    rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
    if spec.get("suspend") and not shut_down:
        found.append("what is suspended must shut down")
    if spec.get("ttlSecondsAfterFinished", 0) and not shut_down:
        found.append("a ttl without shutting down")
    if rules and shut_down:
        found.append("rules, or shutting down")
    if spec.get("submissionMode") != "K8sJobMode" and "submitterPodTemplate" in spec:
        found.append("no pod submits")
    if any(rule["policy"] == "DeleteWorkers" for rule in rules):
        found.append("an autoscaler's workers are not deleted by rules")
    ttls: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        condition = dict(rule["condition"])
        ttl_s = condition.pop("ttlSeconds", 0)
        ((field, state),) = condition.items()
        of_state = ttls.setdefault((field, state), {})
        if rule["policy"] in of_state:
            found.append(f"{rule['policy']} twice for {state}")
        of_state[rule["policy"]] = ttl_s
    for (_, state), policies in ttls.items():
        if policies.get("DeleteSelf", 1 << 40) < policies.get("DeleteCluster", 0):
            found.append(f"{state}: the job before its cluster")
    return found


def service_faults(spec: dict[str, Any]) -> list[str]:
    found = []
    strategy = spec["upgradeStrategy"]
    if strategy["type"] == "NewClusterWithIncrementalUpgrade":
        options = strategy["clusterUpgradeOptions"]
        if not 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100:
            found.append("steps beyond the surge")
        if options["intervalSeconds"] <= 0 or not options["gatewayClassName"]:
            found.append("no interval, or no class of gateways")
    if "name" in spec["rayClusterConfig"]["headGroupSpec"].get("headService", {}).get(
        "metadata", {}
    ):
        found.append("the head's service has its name from the operator")
    return found


def faults(manifest: Manifest) -> list[str]:
    kind, name, spec = manifest["kind"], manifest["metadata"]["name"], manifest["spec"]
    found = []
    if len(name) > NAME_LENGTH_MAX[kind] or not NAME.fullmatch(name):
        found.append("name")
    for _, cluster in clusters([manifest]):
        found += cluster_faults(cluster)
    if kind in ("RayJob", "RayCronJob"):
        found += job_faults(spec["jobTemplate"] if kind == "RayCronJob" else spec)
    if kind == "RayService":
        found += service_faults(spec)
    return found


@pytest.mark.parametrize("name", RENDERED)
def test_the_operator_takes_everything(name: str) -> None:
    ours = [found for found in rendered(name) if found["apiVersion"] == "ray.io/v1"]
    assert {title(found): wrong for found in ours if (wrong := faults(found))} == {}


def test_gates_that_are_off_by_default_are_not_needed() -> None:
    for name in ("overlays/dev", "overlays/production", "runs/production"):
        assert of_kind(rendered(name), "RayCronJob") == []
        for place, cluster in clusters(rendered(name)):
            assert "tlsOptions" not in cluster, place


@pytest.mark.parametrize("name", RENDERED)
def test_every_cluster_grows_and_shrinks_by_autoscaler_v2(name: str) -> None:
    idle_s = {"small": 60, "medium": 120, "large": 300, "xlarge": 300, "query": 120}
    for place, cluster in clusters(rendered(name)):
        assert cluster["enableInTreeAutoscaling"] is True, place
        options = cluster["autoscalerOptions"]
        assert (options["version"], options["idleTimeoutSeconds"]) == ("v2", 60), place
        for group in cluster["workerGroupSpecs"]:
            assert group["idleTimeoutSeconds"] == idle_s[group["groupName"]], place


def test_tls_is_between_all_nodes_where_it_is_put_on() -> None:
    for place, cluster in clusters(rendered("everything")):
        assert cluster["tlsOptions"] == {"enabled": True}, place


def test_what_the_operator_refuses_is_found() -> None:
    job = named(rendered("runs/production"), "RayJob", "bulk-ingestion-run")
    assert faults(job) == []
    job["spec"]["suspend"] = True
    job["spec"]["deletionStrategy"]["deletionRules"][1]["condition"]["ttlSeconds"] = 0
    job["spec"]["deletionStrategy"]["deletionRules"][0]["condition"]["ttlSeconds"] = 1
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplicas"] = 1000
    assert faults(job) == [
        "small: min over max",
        "what is suspended must shut down",
        "SUCCEEDED: the job before its cluster",
    ]


def test_heads_outlive_their_loss_with_redis() -> None:
    objects = rendered("overlays/production")
    for place, cluster in clusters(objects):
        options = cluster.get("gcsFaultToleranceOptions")
        if place.startswith("RayJob"):
            assert options is None
        else:
            assert options["redisAddress"].startswith("rediss://")
            assert set(options["redisPassword"]["valueFrom"]) == {"secretKeyRef"}
