"""Pod Security `restricted` on every container, and what else keeps one thing from another."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from support.crds import CRDS
from support.manifests import (
    LOADER,
    RENDERED,
    Manifest,
    clusters,
    containers,
    named,
    of_kind,
    pods,
    rendered,
)

# What Ray and the lake write; all else of a container's file system is read-only.
WRITTEN = {"/tmp", "/dev/shm", "/var/lib/lakehouse"}
ALLOWED_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}  # fmt: skip


def restricted_faults(pod: Manifest) -> list[str]:
    """Where a pod breaks Kubernetes' Pod Security Standard `restricted` (Linux)."""
    spec: dict[str, Any] = pod["spec"]
    own = spec.get("securityContext", {})
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in volume if kind not in ALLOWED_VOLUMES | {"name"}]
    for container in containers(pod):
        context = container.get("securityContext", {})
        checks = {
            "privileged": not context.get("privileged"),
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
            "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
            "runAsNonRoot": context.get("runAsNonRoot", own.get("runAsNonRoot")) is True,
            "runAsUser": context.get("runAsUser", own.get("runAsUser")) != 0,
            "seccompProfile": (
                context.get("seccompProfile") or own.get("seccompProfile") or {}
            ).get("type")
            in ("RuntimeDefault", "Localhost"),
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
            "procMount": "procMount" not in context,
        }
        found += [f"{container['name']}: {check}" for check, holds in checks.items() if not holds]
    return found


@pytest.mark.parametrize("name", RENDERED)
def test_every_pod_is_restricted(name: str) -> None:
    assert {place: faults for place, pod in pods(rendered(name)) if (faults := restricted_faults(pod))} == {}  # fmt: skip


@pytest.mark.parametrize("name", RENDERED)
def test_processes_are_the_images_user_and_volumes_are_theirs(name: str) -> None:
    """Without the group nobody but root reads the autoscaler's token, the keys, or writes the lake's disk."""
    for place, pod in pods(rendered(name)):
        context = pod["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (1000, 1000), place
        if any({"secret", "projected", "persistentVolumeClaim"} & set(volume) for volume in pod["spec"]["volumes"]):  # fmt: skip
            assert context["fsGroup"] == 1000, place


def test_a_pod_that_is_not_restricted_is_found() -> None:
    _, pod = next(pods(rendered("overlays/dev")))
    del pod["spec"]["containers"][1]["securityContext"]["capabilities"]
    pod["spec"]["hostNetwork"] = True
    assert restricted_faults(pod) == ["hostNetwork", "autoscaler: capabilities"]


@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production"])
def test_the_namespace_enforces_it(name: str) -> None:
    (namespace,) = of_kind(rendered(name), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    homes = {found["metadata"].get("namespace") for found in rendered(name)} - {None}
    assert homes == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("name", RENDERED)
def test_what_is_written_to_is_a_volume_and_all_else_is_read_only(name: str) -> None:
    for place, pod in pods(rendered(name)):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, place
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            if container["name"] in ("ray-head", "ray-worker"):
                assert paths >= WRITTEN, place
            for mount in container["volumeMounts"]:
                volume = volumes[mount["name"]]
                assert mount.get("readOnly") or {"emptyDir", "persistentVolumeClaim"} & set(volume)
                if "emptyDir" in volume:
                    assert "sizeLimit" in volume["emptyDir"], f"{place}: {volume} has no bound"


@pytest.mark.parametrize("name", RENDERED)
def test_a_pod_gets_what_it_asks_for_and_no_more(name: str) -> None:
    for place, pod in pods(rendered(name)):
        for container in containers(pod):
            resources = container["resources"]
            assert resources["requests"] == resources["limits"], f"{place}/{container['name']}"
            assert set(resources["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("name", RENDERED)
def test_only_the_autoscaler_has_a_token_of_kubernetes(name: str) -> None:
    for place, pod in pods(rendered(name)):
        assert pod["spec"]["automountServiceAccountToken"] is False, place
        tokens = {volume["name"] for volume in pod["spec"]["volumes"] if "projected" in volume}
        holders = {
            container["name"]
            for container in containers(pod)
            if tokens & {mount["name"] for mount in container["volumeMounts"]}
        }
        assert holders <= {"autoscaler"}, place


@pytest.mark.parametrize("name", RENDERED)
def test_what_pods_name_is_there(name: str) -> None:
    """But for secrets, which whoever applies it brings (kuberay/README.md)."""
    objects = rendered(name)
    there = {
        kind: {found["metadata"]["name"] for found in of_kind(objects, kind)}
        for kind in ("ServiceAccount", "ConfigMap", "PersistentVolumeClaim")
    }
    # Kubernetes has one in each namespace.
    there["ConfigMap"].add("kube-root-ca.crt")
    for place, pod in pods(objects):
        spec = pod["spec"]
        assert spec["serviceAccountName"] in there["ServiceAccount"], place
        for container in containers(pod):
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in there["ConfigMap"], place
        for volume in spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert claim in there["PersistentVolumeClaim"], place
            for source in volume.get("projected", {}).get("sources", []):
                if "configMap" in source:
                    assert source["configMap"]["name"] in there["ConfigMap"], place


@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production", "runs/dev", "runs/production"])  # fmt: skip
def test_every_container_is_of_the_image_that_the_overlay_names(name: str) -> None:
    tag = "dev" if name.endswith("dev") else "0.1.0"
    for place, pod in pods(rendered(name)):
        images = {one["name"]: one["image"] for one in containers(pod) if "image" in one}
        assert set(images.values()) == {f"lakehouse-ray:{tag}"}, place


@pytest.mark.parametrize("name", RENDERED)
def test_every_cluster_asks_for_rays_token(name: str) -> None:
    for place, cluster in clusters(rendered(name)):
        assert cluster["authOptions"] == {"mode": "token"}, place


@pytest.mark.parametrize("name", RENDERED)
def test_whoever_answers_questions_has_another_role_and_other_secrets(name: str) -> None:
    for place, pod in pods(rendered(name)):
        role, account = pod["metadata"]["labels"]["lakehouse-ray/role"], pod["spec"]["serviceAccountName"]  # fmt: skip
        query, schedule = place.startswith("RayService"), place.startswith("CronJob")
        assert role == ("query" if query else "schedule" if schedule else "work"), place
        assert account == f"lakehouse-{'writer' if role == 'work' else role}", place
        secrets = {
            source["secretRef"]["name"]
            for container in pod["spec"]["containers"]
            for source in container.get("envFrom", [])
            if "secretRef" in source
        }
        expected = {"query": {"lakehouse-query-secrets"}, "work": {"lakehouse-secrets"}}
        assert secrets == expected.get(role, set()), place


@pytest.mark.parametrize("name", ["overlays/production", "runs/production", "everything"])
def test_nothing_that_is_deployed_holds_a_secret(name: str) -> None:
    objects = rendered(name)
    assert of_kind(objects, "Secret") == []
    (settings,) = of_kind(objects, "ConfigMap")
    secret = re.compile(
        r"SECRET|PASSWORD|TOKEN|(API|ACCESS)_KEY|WEBHOOK_URL|REDIS_URL|CATALOG__URI", re.I
    )
    assert [key for key in settings["data"] if secret.search(key)] == []
    for _, pod in pods(objects):
        for container in containers(pod):
            for variable in container.get("env", []):
                if secret.search(variable["name"]):
                    assert set(variable.get("valueFrom", {})) == {"secretKeyRef"}, variable["name"]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(
        rule["key"] in labels
        if rule["operator"] == "Exists"
        else labels.get(rule["key"]) in rule["values"]
        for rule in selector.get("matchExpressions", [])
    )


def policies_of(objects: list[Manifest], labels: dict[str, str]) -> list[dict[str, Any]]:
    found = [policy["spec"] for policy in of_kind(objects, "NetworkPolicy")]
    return [policy for policy in found if selects(policy["podSelector"], labels)]


def may_reach(
    objects: list[Manifest], source: dict[str, str], target: dict[str, str], port: int
) -> bool:
    """Whether a pod of one's labels may open a connection to a pod of the same namespace."""

    def allowed(labels: dict[str, str], way: str, side: str, other: dict[str, str]) -> bool:
        return any(
            (
                side not in rule
                or any(
                    "podSelector" in peer
                    and "namespaceSelector" not in peer
                    and selects(peer["podSelector"], other)
                    for peer in rule[side]
                )
            )
            and ("ports" not in rule or any(found["port"] == port for found in rule["ports"]))
            for policy in policies_of(objects, labels)
            for rule in policy.get(way, [])
        )

    return allowed(source, "egress", "to", target) and allowed(target, "ingress", "from", source)


def ray_pod(role: str, kind: str, cluster: str) -> dict[str, str]:
    own = {"ray.io/is-ray-node": "yes", "ray.io/node-type": kind, "ray.io/cluster": cluster}
    return {"lakehouse-ray/role": role, **own}


HEAD = ray_pod("work", "head", "lakehouse")
WORKER = ray_pod("work", "worker", "lakehouse")
QUERY_HEAD = ray_pod("query", "head", "lakehouse-query-x7k2p")
QUERY_WORKER = ray_pod("query", "worker", "lakehouse-query-x7k2p")
SCHEDULE = {"lakehouse-ray/role": "schedule"}
STRANGER = {"app": "stranger"}


@pytest.mark.parametrize("name", RENDERED)
def test_nothing_passes_that_no_policy_lets_through(name: str) -> None:
    denies = [
        policy["metadata"]["name"]
        for policy in of_kind(rendered(name), "NetworkPolicy")
        if policy["spec"]["podSelector"] == {}
        and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        and not policy["spec"].get("ingress")
        and not policy["spec"].get("egress")
    ]
    assert denies == ["default-deny"]


@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production"])
def test_who_may_reach_whom(name: str) -> None:
    objects = rendered(name)
    assert may_reach(objects, WORKER, HEAD, 6379)
    assert may_reach(objects, QUERY_WORKER, QUERY_HEAD, 6379)
    assert may_reach(objects, SCHEDULE, HEAD, 8265)
    assert not may_reach(objects, SCHEDULE, HEAD, 6379)
    assert not may_reach(objects, SCHEDULE, ray_pod("work", "head", "bulk-ingestion-4f"), 8265)
    for mine, theirs in ((HEAD, QUERY_HEAD), (QUERY_WORKER, HEAD), (WORKER, QUERY_WORKER)):
        for port in (6379, 8265, 10001, 8080):
            assert not may_reach(objects, mine, theirs, port)
    for target in (HEAD, WORKER, QUERY_HEAD, QUERY_WORKER):
        for port in (6379, 8265, 10001, 8080, 9090, 52365):
            assert not may_reach(objects, STRANGER, target, port)


def let_in(
    objects: list[Manifest], target: dict[str, str], namespace: dict[str, str], pod: dict[str, str]
) -> set[int | None]:
    """Ports at which a pod of another namespace may ask; None: all of them."""
    found: set[int | None] = set()
    for policy in policies_of(objects, target):
        for rule in policy.get("ingress", []):
            everybody: list[dict[str, Any]] = [{"namespaceSelector": {}}]
            for peer in rule.get("from", everybody):
                named_so = selects(peer.get("podSelector", {}), pod)
                if "namespaceSelector" in peer and selects(peer["namespaceSelector"], namespace) and named_so:  # fmt: skip
                    found |= {one["port"] for one in rule.get("ports", [{"port": None}])}
    return found


OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
OF_MONITORING = {"kubernetes.io/metadata.name": "monitoring"}


@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production", "everything"])
def test_what_other_namespaces_may_ask(name: str) -> None:
    objects = rendered(name)
    of_ray = {9090, 44217, 44227}
    for target in (HEAD, WORKER, QUERY_HEAD, QUERY_WORKER):
        query = target["lakehouse-ray/role"] == "query"
        assert let_in(objects, target, {}, STRANGER) == set()
        assert let_in(objects, target, {}, OPERATOR) == {8265, 52365, 8080}
        assert let_in(objects, target, OF_MONITORING, STRANGER) == (of_ray | ({8080} if query else set()))  # fmt: skip
        asks = let_in(objects, target, {"lakehouse-ray/asks": "yes"}, STRANGER)
        assert asks == ({8080} if query else set())
    assert let_in(objects, SCHEDULE, {"lakehouse-ray/asks": "yes"}, OPERATOR) == set()


def test_the_gateway_of_an_upgrade_by_steps_reaches_the_service_and_nothing_else() -> None:
    objects = rendered("everything")
    gateway = {"gateway.networking.k8s.io/gateway-name": "lakehouse-query-gateway"}
    assert may_reach(objects, gateway, QUERY_WORKER, 8080)
    for port in (6379, 8265, 10001):
        assert not may_reach(objects, gateway, QUERY_HEAD, port)
        assert not may_reach(objects, gateway, HEAD, port)
    assert let_in(objects, gateway, {"lakehouse-ray/asks": "yes"}, STRANGER) == {80}
    assert let_in(objects, gateway, {}, STRANGER) == set()


@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production"])
def test_every_pod_may_ask_for_names_and_goes_out_for_what_it_needs(name: str) -> None:
    """By ports of egress to where: names, the private network, and the rest of the world."""
    objects = rendered(name)

    def out(labels: dict[str, str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for policy in policies_of(objects, labels):
            for rule in policy.get("egress", []):
                for peer in rule["to"]:
                    place = peer.get("ipBlock", {}).get("cidr") or (
                        "names" if "namespaceSelector" in peer else ""
                    )
                    if place:
                        found.setdefault(place, set()).update(
                            f"{one['protocol']} {one['port']}" for one in rule["ports"]
                        )
        return found

    world, private = "0.0.0.0/0", "10.0.0.0/8"
    catalog = {"TCP 5432", "TCP 6379"} if name == "overlays/production" else set()
    names = {"UDP 53", "TCP 53"}
    assert out(SCHEDULE) == {"names": names}
    for labels in (HEAD, WORKER, QUERY_HEAD, QUERY_WORKER):
        found = out(labels)
        assert (found["names"], found[world]) == (names, {"TCP 443"})
        kubernetes = {"TCP 443", "TCP 6443"} if labels["ray.io/node-type"] == "head" else set()
        assert found.get(private, set()) == catalog | kubernetes


@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production"])
def test_nothing_reaches_the_metadata_of_machines(name: str) -> None:
    for policy in of_kind(rendered(name), "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            assert "to" in rule, policy["metadata"]["name"]
            for peer in rule["to"]:
                if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                    assert "169.254.0.0/16" in peer["ipBlock"]["except"]


def evictions_allowed(budget: dict[str, Any], pods_healthy: int) -> int:
    """Of pods that a RayCluster owns, as Kubernetes' disruption controller reckons.

    It asks what owns them for its scale where the budget is not a number that must be left. A RayCluster
    has no subresource `scale`; then none may go.
    """
    least = budget.get("minAvailable")
    return max(0, pods_healthy - least) if isinstance(least, int) else 0


@pytest.mark.skipif(not CRDS.is_dir(), reason="no ../shared/kuberay-crds")
def test_a_ray_cluster_has_no_scale_that_budgets_could_be_reckoned_by() -> None:
    definition = yaml.load((CRDS / "ray.io_rayclusters.yaml").read_text(), LOADER)
    for version in definition["spec"]["versions"]:
        assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production"])
def test_a_drain_takes_replicas_while_one_is_left_and_no_jobs_head(name: str) -> None:
    objects = rendered(name)
    query = named(objects, "PodDisruptionBudget", "query-workers")["spec"]
    (group,) = named(objects, "RayService", "lakehouse-query")["spec"]["rayClusterConfig"]["workerGroupSpecs"]  # fmt: skip
    replicas_min = group["minReplicas"]
    assert evictions_allowed(query, replicas_min) == 1, "a machine can be drained"
    assert query["minAvailable"] == replicas_min - 1
    assert selects(query["selector"], QUERY_WORKER)
    assert not selects(query["selector"], QUERY_HEAD)
    heads = named(objects, "PodDisruptionBudget", "job-heads")["spec"]
    assert isinstance(heads["minAvailable"], int), "else the controller reports an error"
    assert evictions_allowed(heads, 100) == 0
    assert not selects(heads["selector"], HEAD)
    for job in of_kind(objects, "RayJob"):
        template = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
        labels = {**template["metadata"]["labels"], "ray.io/node-type": "head"}
        assert selects(heads["selector"], labels)
