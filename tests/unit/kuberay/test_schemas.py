"""Every manifest is what KubeRay's and Kubernetes' own schemas take, and no field is misspelled."""

from __future__ import annotations

from functools import cache
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate import utils
from support import crds
from support.manifests import RENDERED, Manifest, named, pods, rendered, title

KUBERNETES = "1.37"
with_crds = pytest.mark.skipif(not crds.CRDS.is_dir(), reason="no ../shared/kuberay-crds")


# It would read them for each object again, which takes most of its time.
contents_of = cache(utils.schema_contents)


@pytest.fixture(autouse=True)
def schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "schema_contents", contents_of)


@with_crds
@pytest.mark.parametrize("name", RENDERED)
def test_kuberays_kinds_are_valid(name: str) -> None:
    wrong = {
        title(found): faults
        for found in rendered(name)
        if found["apiVersion"].startswith("ray.io/") and (faults := crds.faults(found))
    }
    assert wrong == {}


@pytest.mark.parametrize("name", RENDERED)
def test_kubernetes_own_kinds_are_valid(name: str) -> None:
    for found in rendered(name):
        if not found["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(found, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", RENDERED)
def test_the_pods_of_clusters_are_valid(name: str) -> None:
    for place, template in pods(rendered(name)):
        labels = {"labels": template["metadata"]["labels"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": labels, "spec": template["spec"]}
        try:
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{place}: {error.message}")


def test_each_overlay_has_all_that_is_promised() -> None:
    promised = {"Namespace", "RayCluster", "RayJob", "RayService", "CronJob", "NetworkPolicy"}
    promised |= {"ServiceAccount", "PodDisruptionBudget", "ConfigMap"}
    for name in ("overlays/dev", "overlays/production"):
        assert promised <= {found["kind"] for found in rendered(name)}
    assert {found["kind"] for found in rendered("everything")} >= crds.KINDS


def spoil_a_name(job: Manifest) -> None:
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")


def spoil_a_name_in_a_pod(job: Manifest) -> None:
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["resorces"] = {}


def spoil_a_type(job: Manifest) -> None:
    job["spec"]["ttlSecondsAfterFinished"] = "600"


def spoil_a_choice(job: Manifest) -> None:
    job["spec"]["rayClusterSpec"]["autoscalerOptions"]["version"] = "v3"


def spoil_what_is_required(job: Manifest) -> None:
    del job["spec"]["rayClusterSpec"]["headGroupSpec"]


def mix_old_and_new_rules(job: Manifest) -> None:
    rules = [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]
    job["spec"]["deletionStrategy"] = {
        "deletionRules": rules,
        "onSuccess": {"policy": "DeleteSelf"},
    }


def leave_a_condition_open(job: Manifest) -> None:
    rules = [{"policy": "DeleteSelf", "condition": {"ttlSeconds": 3}}]
    job["spec"]["deletionStrategy"] = {"deletionRules": rules}


@with_crds
@pytest.mark.parametrize(
    "spoil",
    [
        spoil_a_name,
        spoil_a_name_in_a_pod,
        spoil_a_type,
        spoil_a_choice,
        spoil_what_is_required,
        mix_old_and_new_rules,
        leave_a_condition_open,
    ],
)
def test_what_is_wrong_is_found(spoil: Any) -> None:
    job = named(rendered("overlays/dev"), "RayJob", "bulk-ingestion")
    assert crds.faults(job) == []
    spoil(job)
    assert len(crds.faults(job)) == 1


@with_crds
def test_the_rules_of_the_definitions_are_all_known() -> None:
    def rules(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return {rule for item in schema for rule in rules(item)}
        if not isinstance(schema, dict):
            return set()
        own = {rule["rule"] for rule in schema.get("x-kubernetes-validations", [])}
        return own.union(*(rules(item) for item in schema.values()))

    assert rules(list(crds.schemas().values())) == set(crds.RULES)
