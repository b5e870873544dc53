"""Workers in the manifests are those that the allocator asks for: Ray's own autoscaler says so."""

from __future__ import annotations

from typing import Any

import pytest
from support.manifests import Manifest, clusters, named, of_kind, rendered

from lakehouse_ray.runtime.allocator import GIB, PROFILE_OF_KIND, Kind, Workload, allocate
from lakehouse_ray.runtime.cluster import ClusterView, NodeView
from lakehouse_ray.settings import Settings, load_settings

OVERLAYS = ("overlays/dev", "overlays/production")
CPU_NAMES = {"small": 1, "medium": 2, "large": 4, "xlarge": 8}


def settings_of(objects: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that a pod finds in its environment."""
    (found,) = of_kind(objects, "ConfigMap")
    for name, value in found["data"].items():
        monkeypatch.setenv(name, value)
    return load_settings({})


def node_types(place: str, cluster: Manifest) -> dict[str, Any]:
    """What Ray's autoscaler reads out of a cluster's specification."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    name = place.partition("/")[2]
    manifest = {"metadata": {"name": name, "namespace": "lakehouse"}, "spec": cluster}
    found: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(manifest)
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_group_for_each_profile_of_its_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered(name)
    settings = settings_of(objects, monkeypatch)
    expected = {
        profile: {"CPU": cpus, "memory": gib * GIB}
        for profile, (cpus, gib) in settings.compute.profiles().items()
    }
    assert settings.compute.profiles() == Settings().compute.profiles()
    for place, cluster in clusters(objects):
        types = node_types(place, cluster)["available_node_types"]
        assert types.pop("headgroup")["resources"]["CPU"] == 0, place
        found = {group: one["resources"] for group, one in types.items()}
        if place.startswith("RayService"):
            assert found == {"query": expected["medium"]}
        else:
            assert found == expected, place


@pytest.mark.parametrize("name", OVERLAYS)
def test_groups_grow_to_what_a_run_may_ask_for_and_shrink_to_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(name)
    cpus_max = settings_of(objects, monkeypatch).compute.cpus_max
    assert cpus_max > 0
    for place, cluster in clusters(objects):
        if place.startswith("RayService"):
            continue
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] == 0
            assert 60 <= group["idleTimeoutSeconds"] <= 600
            if group["maxReplicas"]:  # 0: no such machines in this overlay
                held = group["maxReplicas"] * CPU_NAMES[group["groupName"]]
                assert held >= cpus_max, f"{place}/{group['groupName']}"


@pytest.mark.parametrize("kind", PROFILE_OF_KIND)
def test_rays_autoscaler_brings_the_group_that_the_allocator_means(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.common_pb2 import LabelSelectorOperator

    objects = rendered("overlays/production")
    cluster = named(objects, "RayCluster", "lakehouse")["spec"]
    work = Workload(kind, files=10_000, compressed_bytes=500 * GIB, units=10_000)
    head = NodeView("head", 0, 8 * GIB)
    view = ClusterView((head,), may_grow=True)
    allocation = allocate(work, view, Settings().compute.profiles(), cpus_max=64)
    pool = allocation.spec()

    raw = node_types("RayCluster/lakehouse", cluster)
    config = AutoscalingConfig(raw, skip_content_hash=True)
    resources = {"CPU": pool.cpus, "memory": pool.memory_bytes}
    label = settings_of(objects, monkeypatch).compute.node_label
    selector = [(label, LabelSelectorOperator.LABEL_OPERATOR_IN, [allocation.profile])]
    demand = ResourceRequestUtil.make(resources, label_selectors=[selector])
    request = SchedulingRequest(
        node_type_configs=config.get_node_type_configs(),
        disable_launch_config_check=True,
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([demand] * pool.actors),
    )
    reply = ResourceDemandScheduler().schedule(request)
    launched = {one.instance_type: one.count for one in reply.to_launch}
    assert launched.pop("headgroup", 0) <= 1
    assert launched == {PROFILE_OF_KIND[kind]: pool.actors}
    assert list(reply.infeasible_resource_requests) == []


def test_ingestion_and_nothing_else_bears_spot_machines() -> None:
    objects = rendered("overlays/production")
    for place, cluster in clusters(objects):
        heads = [("head", cluster["headGroupSpec"])]
        groups = [(group["groupName"], group) for group in cluster["workerGroupSpecs"]]
        for group, spec in (*heads, *groups):
            tolerated = [one["key"] for one in spec["template"]["spec"].get("tolerations", [])]
            expected = ["lakehouse-ray/spot"] if group == "medium" else []
            assert tolerated == expected, f"{place}/{group}"


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_of_the_service_holds_one_replica(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered(name)
    serve = settings_of(objects, monkeypatch).serve
    (group,) = named(objects, "RayService", "lakehouse-query")["spec"]["rayClusterConfig"]["workerGroupSpecs"]  # fmt: skip
    container = group["template"]["spec"]["containers"][0]
    assert float(container["resources"]["limits"]["cpu"]) == serve.replica_cpus
    assert (group["minReplicas"], group["maxReplicas"]) == (serve.replicas_min, serve.replicas_max)
    # Statements at work at once, and half the pod for all else.
    memory_bytes = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * GIB
    assert (serve.statements * serve.statement_memory_mb << 20) <= memory_bytes / 2
