"""What a real Prometheus knows of an assessment, through a file and through a Pushgateway."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import polars as pl
import pytest
from support.bars import BarLake, bars
from support.commands import MANY_BYTES
from support.prometheus import (
    eventually,
    free_port,
    node_exporter,
    prometheus,
    promtool,
    pushgateway,
)
from support.receiver import Answer, receiver

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.metrics_export import SHAPES
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
from lakehouse_ray.settings import load_settings

pytestmark = pytest.mark.integration

DOCS = Path(__file__).parents[2] / "docs"


def with_holes(symbol: str, *days: int) -> pl.DataFrame:
    """Four days of hours, of which some lack six."""
    hole = pl.col("open_time").dt.day().is_in(days) & pl.col("open_time").dt.hour().is_between(
        6, 11
    )
    return bars(symbol, "2024-05-20", 4, holes=0).filter(~hole)


def run(lake: BarLake, telemetry: dict[str, str], **alerts: object) -> AssessmentReport:
    settings = load_settings(
        {
            "home": lake.home,
            "compute": {"local_bytes_max": MANY_BYTES},
            "telemetry": telemetry,
            "alerts": {"webhook_attempts_max": 1, **alerts},
        }
    )
    return assess(Writer(settings.resolved()), AssessmentRequest())


def scores(lake: BarLake) -> tuple[float, float]:
    """The least and the mean of all, from the log itself: its series were assessed once."""
    found = lake.rows("gold.quality_log")["score"]
    return float(found.min()), float(found.mean())  # type: ignore[arg-type]


@pytest.fixture
def lake(tmp_path: Path) -> BarLake:
    lake = BarLake(tmp_path / "home")
    lake.home.mkdir()
    lake.put(with_holes("AAA", 21), with_holes("BBB"))
    return lake


def test_prometheus_counts_alerts_on_from_run_to_run_and_fires(
    lake: BarLake, tmp_path: Path
) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    by_file = {"lake": "file", "textfile": str(folder / "lakehouse.prom")}
    alerts = 'sum(lakehouse_alerts_total{lake="%s"})'
    with node_exporter(folder) as nodes, pushgateway(tmp_path) as gate:
        by_gate = {"lake": "gate/way 1", "pushgateway_url": f"http://127.0.0.1:{gate}"}
        with prometheus(tmp_path / "prometheus", {"node": nodes, "gate": gate}) as watcher:
            assert run(lake, by_file).warnings == []
            eventually(lambda: watcher.value(alerts % "file") == 1)
            # Nothing to assess, and pushed anew: what is known does not change.
            for _ in range(2):
                assert run(lake, by_gate).warnings == []
            eventually(lambda: watcher.value(alerts % "gate/way 1") == 1)
            wanted = {("LakehouseNewAlerts", "file"), ("LakehouseNewAlerts", "gate/way 1")}
            eventually(lambda: wanted <= watcher.firing())
            of = '{lake="file", market="spot", dataset="klines", interval="1h"%s}'
            least, mean = scores(lake)
            for name, score in (("min", least), ("mean", mean)):
                found = watcher.value(f"lakehouse_quality_score_{name}" + of % "")
                assert found == pytest.approx(score, abs=1e-9)
            assert watcher.value("lakehouse_quality_scores" + of % "") == 8
            assert watcher.value("lakehouse_quality_scores_under_threshold" + of % "") == 1
            assert watcher.value("lakehouse_missing_rows" + of % ', cause="unknown"') == 6
            assert watcher.value("lakehouse_missing_rows" + of % ', cause="own_loss"') == 0
            assert watcher.value("lakehouse_assessments_total" + of % "") == 2
            assert watcher.value("lakehouse_assessed_rows_total" + of % "") == 2 * 96 - 6
            age = f"time() - lakehouse_assessment_timestamp_seconds{of % ''}"
            assert 0 < (watcher.value(age) or 0) < 600
            assert watcher.value('lakehouse_assessment_run_series{lake="file",state="failed"}') == 0

            worse = pl.concat([with_holes("AAA", 21, 22), with_holes("BBB")])
            lake.rewrite("silver.klines_coarse", lambda _: worse)
            assert run(lake, by_file).alerts == 1
            eventually(lambda: watcher.value(alerts % "file") == 2)
            # From 1 to 2: increase() extrapolates over the hour, so only that there is one.
            grown = 'increase(lakehouse_alerts_total{lake="file"}[1h])'
            eventually(lambda: (watcher.value(grown) or 0) > 0)


def test_what_is_written_is_as_the_conventions_want_it_and_documented(
    lake: BarLake, tmp_path: Path
) -> None:
    path = tmp_path / "lakehouse.prom"
    with receiver() as hook:
        hook.answers = [Answer(404)]
        report = run(lake, {"textfile": str(path)}, webhook_url=hook.url())
    assert report.alerts_waiting == 1
    text = path.read_text()
    assert 'lakehouse_alerts_waiting{lake="main"} 1.0' in text
    checked = promtool("check", "metrics", stdin=text)
    assert (checked.returncode, checked.stderr) == (0, "")
    documented = (DOCS / "alerts.md").read_text()
    for shape in SHAPES:
        assert f"{shape.exposed}{{" in text or shape.exposed == "lakehouse_alerts_delivered_total"
        assert f"`{shape.exposed}`" in documented
    assert "AAA" not in text


def test_a_gateway_that_is_down_is_a_warning_without_its_password(lake: BarLake) -> None:
    url = f"http://user:c4n4ry@127.0.0.1:{free_port()}"
    report = run(lake, {"pushgateway_url": url})
    (warning,) = report.warnings
    assert "metrics could not be published: the Pushgateway at 127.0.0.1" in warning
    assert "c4n4ry" not in warning
    assert report.assessed == 2


def test_pushing_again_replaces_what_was_pushed(lake: BarLake, tmp_path: Path) -> None:
    with pushgateway(tmp_path) as gate:
        for _ in range(3):
            assert run(lake, {"pushgateway_url": f"http://127.0.0.1:{gate}"}).warnings == []
        with urllib.request.urlopen(f"http://127.0.0.1:{gate}/api/v1/metrics") as answer:
            (group,) = json.load(answer)["data"]
    assert group["labels"] == {"job": "lakehouse", "lake": "main"}
