"""The files of cluster/monitoring, and what they may name."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from support.promql import named

from lakehouse_ray.telemetry.metrics import ALL

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster/monitoring"
RULES = sorted(path for path in (FOLDER / "rules").glob("*.yml") if ".test." not in path.name)
RULE_TESTS = sorted((FOLDER / "rules").glob("*.test.yml"))
RUNBOOKS = ROOT / "docs/runbooks"

# What Prometheus adds to each series, what the configuration does, and what Ray's exporter does.
ADDED = frozenset(
    {"job", "instance", "lake", "WorkerId", "NodeAddress", "Component", "SessionName", "Version"}
)
# Of Ray 2.60: an integration test looks for these in what a real one shows.
OF_RAY: Mapping[str, frozenset[str]] = {
    "ray_node_cpu_utilization": frozenset(),
    "ray_node_mem_used": frozenset(),
    "ray_node_mem_total": frozenset(),
    "ray_node_disk_utilization_percentage": frozenset(),
    "ray_node_network_receive_speed": frozenset(),
    "ray_node_network_send_speed": frozenset(),
    "ray_resources": frozenset({"Name", "State"}),
    "ray_tasks": frozenset({"Name", "State"}),
    "ray_actors": frozenset({"Name", "State"}),
    "ray_object_store_memory": frozenset({"Location", "ObjectState"}),
}
# These come only with what they count, or from elsewhere.
OF_OTHERS: Mapping[str, frozenset[str]] = {
    "ray_node_manager_unexpected_worker_failure_total": frozenset({"Name", "Type"}),
    "ray_serve_deployment_replica_healthy": frozenset({"application", "deployment", "replica"}),
    "node_filesystem_avail_bytes": frozenset({"device", "fstype", "mountpoint"}),
    "node_filesystem_size_bytes": frozenset({"device", "fstype", "mountpoint"}),
    "up": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}


def dashboards_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", FOLDER / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module
    spec.loader.exec_module(module)
    return module


def dashboards() -> dict[str, dict[str, Any]]:
    """By name, as Grafana reads them."""
    found = sorted((FOLDER / "grafana/dashboards").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in found}


def panel_queries() -> Iterator[tuple[str, str, str]]:
    """Where, the question with every lake chosen, and its legend."""
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                expr = target["expr"].replace("$lake", ".*")
                yield f"{name}: {panel['title']}", expr, target["legendFormat"]


@functools.cache
def rules() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in RULES]
    return [rule for read in documents for group in read["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


@functools.cache
def known() -> dict[str, frozenset[str]]:
    """Labels of every metric that may be asked for, without `ADDED`."""
    found = {**OF_RAY, **OF_OTHERS}
    for shape in ALL:
        for series in shape.series:
            of_bucket = {"le"} if series.endswith("_bucket") else set()
            found[series] = frozenset({*shape.labels, *of_bucket})
    for rule in rules():
        if "record" in rule:
            # What a recording keeps is among what it groups by.
            found[rule["record"]] = named(rule["expr"]).grouped
    return found


def unknown_in(expr: str) -> list[str]:
    """What a question names that there is not; empty where all is well."""
    metrics = known()
    asked = named(expr)
    wrong = [name for name in asked.selected if name not in metrics]
    for name, labels in asked.selected.items():
        of = metrics.get(name, frozenset()) | ADDED
        wrong += [f"{name}{{{label}}}" for label in sorted(labels - of)]
    anywhere = frozenset().union(*(metrics.get(n, frozenset()) for n in asked.selected)) | ADDED
    return [*wrong, *(f"by ({label})" for label in sorted(asked.grouped - anywhere))]
