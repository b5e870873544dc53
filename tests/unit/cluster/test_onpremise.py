"""`cluster/onpremise.yaml` as Ray's launcher reads it, and the settings of plain machines."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from support.start_commands import CLUSTER, ROOT, document, options

from lakehouse_ray.settings import load_settings

MADE = {"dist", "cluster/secrets/machines.env", "cluster/secrets/ray_token"}
HOME = "/home/lakehouse"


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return document("onpremise.yaml")


def test_the_launcher_takes_all_machines_that_are_named(given: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(given))
    validate_config(prepared)
    (type_,) = prepared["available_node_types"].values()
    machines = len(given["provider"]["worker_ips"])
    assert (type_["min_workers"], type_["max_workers"]) == (machines, machines)
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_what_nodes_are_started_with_is_what_ray_takes(given: dict[str, Any]) -> None:
    started = {}
    for kind in ("head", "worker"):
        stop, start = given[f"{kind}_start_ray_commands"]
        assert stop.endswith("/bin/ray stop")
        *before, command = (part.strip() for part in start.split(";"))
        assert ". ~/lakehouse/settings.env" in before
        (exported,) = [part for part in before if part.startswith("export ")]
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/lakehouse/ray_token" in exported
        started[kind] = options(command)
    head, worker = started["head"], started["worker"]
    assert head["head"]
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"  # where the launcher puts it
    assert head["dashboard_host"] == "127.0.0.1"
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"


def test_what_is_sent_is_there(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert given["auth"]["ssh_user"] == HOME.rsplit("/", 1)[1]
    for remote, local in given["file_mounts"].items():
        assert remote.startswith(f"{HOME}/lakehouse/")
        assert local in MADE or (ROOT / local).exists(), local
    lines = (CLUSTER / "machines.env").read_text().splitlines()
    for name, value in (line.split("=", 1) for line in lines if not line.startswith("#")):
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert settings.storage.root.startswith("s3://")
    assert settings.storage.s3.endpoint_url
