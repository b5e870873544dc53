"""Dashboards, rules and runbooks name only what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from support.monitoring import (
    FOLDER,
    RUNBOOKS,
    alerts,
    dashboards,
    dashboards_module,
    known,
    panel_queries,
    rules,
    unknown_in,
)
from support.promql import named

from lakehouse_ray.cli.app import COMMANDS
from lakehouse_ray.telemetry.metrics import ALL

PANELS = list(panel_queries())


def code_of(page: Path, language: str) -> list[str]:
    text = "\n".join(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))
    return [line for line in text.splitlines() if line.strip()]


def test_a_question_is_read() -> None:
    asked = named(
        'histogram_quantile(0.95, sum by (lake, le) (rate(a_bucket{x="}b{", y!~"c"}[5m] offset 1h)))'
        " / on (z) group_left b:c > 1e3 or (time() - d unless d offset 15m) and vector(0) == bool 2"
    )
    assert asked.selected == {"a_bucket": {"x", "y"}, "b:c": set(), "d": set()}
    assert asked.grouped == {"lake", "le", "z"}


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ("rate(lakehouse_rows_of_nobody_total[5m])", ["lakehouse_rows_of_nobody_total"]),
        ('lakehouse_requests_total{symbol="A"}', ["lakehouse_requests_total{symbol}"]),
        ("sum by (colour) (lakehouse_requests_total)", ["by (colour)"]),
        # A counter has its suffix, a histogram its parts.
        ("lakehouse_requests", ["lakehouse_requests"]),
        ("lakehouse_request_seconds", ["lakehouse_request_seconds"]),
        ("sum by (le, route) (rate(lakehouse_request_seconds_bucket[5m]))", []),
    ],
)
def test_what_there_is_not_is_found(expr: str, wrong: list[str]) -> None:
    assert unknown_in(expr) == wrong


@pytest.mark.parametrize(("where", "expr", "legend"), PANELS, ids=[p[0] for p in PANELS])
def test_a_panel_asks_for_what_there_is(where: str, expr: str, legend: str) -> None:
    assert unknown_in(expr) == [], where
    labels = frozenset().union(*(known()[name] for name in named(expr).selected))
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert label in labels | {"lake", "instance"}, f"{where}: {legend}"


def test_rules_ask_for_what_there_is() -> None:
    for rule in rules():
        assert unknown_in(rule["expr"]) == [], rule


def test_dashboards_are_what_is_described() -> None:
    module = dashboards_module()
    assert module.main(["--check"]) == 0
    assert len(module.DASHBOARDS) >= 6
    assert set(dashboards()) == {board.name for board in module.DASHBOARDS}


def test_dashboards_are_as_grafana_wants_them() -> None:
    provisioned = yaml.safe_load(
        (FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )
    sources = {(source["type"], source["uid"]) for source in provisioned["datasources"]}
    boards = dashboards()
    assert len({board["uid"] for board in boards.values()}) == len(boards)
    for name, board in boards.items():
        assert len(board["uid"]) <= 40
        assert board["title"]
        assert board["schemaVersion"] >= 39
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        places: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24, (name, panel["title"])
            covered = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not covered & places, (name, panel["title"])
            places |= covered
            assert (panel["datasource"]["type"], panel["datasource"]["uid"]) in sources
            assert panel["type"] in ("timeseries", "stat", "gauge", "table", "bargauge")
            assert [t["refId"] for t in panel["targets"]] == sorted(
                {t["refId"] for t in panel["targets"]}
            )


def test_every_metric_of_work_is_on_a_dashboard_or_in_a_rule() -> None:
    asked = {
        name for expr in (*(p[1] for p in PANELS), *(r["expr"] for r in rules()))
        for name in named(expr).selected
    }  # fmt: skip
    # What a run leaves for the textfile and tables count is listed in docs/alerts.md.
    beside = {
        "lakehouse_assessments_total", "lakehouse_assessed_rows_total",
        "lakehouse_assessment_run_duration_seconds", "lakehouse_quality_threshold",
    }  # fmt: skip
    assert {s.exposed for s in ALL if not asked & set(s.series)} == beside


def test_every_alert_has_a_page_that_says_what_to_do() -> None:
    index = (RUNBOOKS / "README.md").read_text()
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        name = rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert f"| [{name}]({name}.md) | {rule['labels']['severity']} |" in index
        page = RUNBOOKS / f"{name}.md"
        text = page.read_text()
        parts = re.split(r"^## ", text, flags=re.MULTILINE)
        assert [part.splitlines()[0] for part in parts] == [f"# {name}", "See", "Do"]
        assert all(len(part.split()) > 8 for part in parts), name
        for expr in code_of(page, "promql"):
            assert unknown_in(expr) == [], name
        commands = code_of(page, "sh")
        assert commands, name
        for called in re.findall(r"`?\blakehouse ([a-z]+)\b", "\n".join(commands) + parts[-1]):
            assert called in COMMANDS, (name, called)
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (RUNBOOKS / link).is_file(), (name, link)
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*names, "README"}


def test_everything_is_of_this_machine_unless_it_is_told_otherwise() -> None:
    for name in ("prometheus.yml", "alertmanager.yml"):
        text = "\n".join(
            line for line in (FOLDER / name).read_text().splitlines() if not line.strip().startswith("#")
        )  # fmt: skip
        for address in re.findall(r"\b[\w.-]+:\d{2,5}\b", text):
            assert address.startswith("127.0.0.1:"), address
