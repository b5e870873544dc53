"""The service's manifest: the application that `lakehouse serve` describes, its probes, its upgrades."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.manifests import Manifest, named, of_kind, rendered

from lakehouse_ray.serve.configuration import serve_config
from lakehouse_ray.settings import load_settings

OVERLAYS = ("overlays/dev", "overlays/production", "everything")


def service_of(name: str) -> Manifest:
    spec: Manifest = named(rendered(name), "RayService", "lakehouse-query")["spec"]
    return spec


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_is_the_configuration_that_the_command_prints(name: str) -> None:
    found = yaml.safe_load(service_of(name)["serveConfigV2"])
    here = {"home": "/var/lib/lakehouse", "serve": {"host": "0.0.0.0", "port": 8080}}
    assert found == serve_config(load_settings(here))


@pytest.mark.parametrize("name", OVERLAYS)
def test_probes_ask_health_and_ready_on_the_services_port(name: str) -> None:
    (group,) = service_of(name)["rayClusterConfig"]["workerGroupSpecs"]
    container = group["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["serve"] == 8080
    asked = {
        probe: (container[probe]["httpGet"]["path"], container[probe]["httpGet"]["port"])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": ("/health", 8080),
        "livenessProbe": ("/health", 8080),
        "readinessProbe": ("/ready", 8080),
    }
    # Without keys the service answers to names of its own machine alone.
    for probe in asked:
        assert container[probe]["httpGet"]["httpHeaders"] == [
            {"name": "Host", "value": "localhost"}
        ]


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_that_load_left_without_a_replica_is_removed_and_not_killed(name: str) -> None:
    (group,) = service_of(name)["rayClusterConfig"]["workerGroupSpecs"]
    probe = group["template"]["spec"]["containers"][0]["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 2 * group["idleTimeoutSeconds"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_rays_metrics_leave_the_services_port_free(name: str) -> None:
    # The operator's default for metrics is 8080 as well.
    cluster = service_of(name)["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        ports = {
            port["name"]: port["containerPort"]
            for port in group["template"]["spec"]["containers"][0]["ports"]
        }
        assert group["rayStartParams"]["metrics-export-port"] == str(ports["metrics"]) == "9090"


@pytest.mark.parametrize("name", OVERLAYS)
def test_who_asks_the_service_comes_to_the_port_that_ray_serve_opens(name: str) -> None:
    spec = service_of(name)
    opened = yaml.safe_load(spec["serveConfigV2"])["http_options"]["port"]
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    ports = {one["name"]: one["containerPort"] for one in group["template"]["spec"]["containers"][0]["ports"]}  # fmt: skip
    assert spec["serveService"]["spec"]["ports"] == [
        {"name": "serve", "port": 8080, "targetPort": 8080}
    ]
    assert (opened, ports["serve"]) == (8080, 8080)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_head_is_ready_before_the_application_is_there(name: str) -> None:
    # The operator deploys the application when the head is ready: a probe of the application there
    # would wait for itself.
    head = service_of(name)["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert not {"startupProbe", "livenessProbe", "readinessProbe"} & set(head["containers"][0])


def test_upgrades_bring_up_a_second_cluster() -> None:
    spec = service_of("overlays/production")
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    timeout_s = load_settings({}).serve.statement_timeout_s
    assert spec["rayClusterDeletionDelaySeconds"] >= 2 * timeout_s


def test_another_setting_is_another_cluster() -> None:
    objects = rendered("overlays/production")
    (settings,) = of_kind(objects, "ConfigMap")
    name = settings["metadata"]["name"]
    assert name.startswith("lakehouse-settings-")  # and a hash of what is in it
    cluster = named(objects, "RayService", "lakehouse-query")["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        sources = group["template"]["spec"]["containers"][0]["envFrom"]
        assert [source["configMapRef"]["name"] for source in sources if "configMapRef" in source] == [name]  # fmt: skip


def test_the_file_of_keys_is_its_users_alone() -> None:
    cluster = service_of("overlays/production")["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        (command,) = (one["command"] for one in spec["initContainers"] if one["name"] == "keys")
        assert command[:2] == ["sh", "-c"]
        assert "install -m 600 /keys/keys.json /var/lib/lakehouse/keys.json" in command[2]
    assert Path("/var/lib/lakehouse/keys.json") == load_settings({"home": "/var/lib/lakehouse"}).keys_path  # fmt: skip
