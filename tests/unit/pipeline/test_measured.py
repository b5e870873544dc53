"""What a run tells while it is at work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.pipeline.gold_report import BuildReport, ProductReport
from lakehouse_ray.pipeline.measured import RunMeasures, measures_of
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.telemetry.meter import METERS
from lakehouse_ray.telemetry.metrics import STREAM_GAPS, MetricShape

OF = "ingest", "um", "klines"


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.totals: dict[tuple[str, ...], float] = {}
        self.level: dict[tuple[str, ...], float] = {}
        self.times: list[str] = []

    def add(self, shape: MetricShape, amount: float, labels: tuple[str, ...]) -> None:
        assert amount > 0
        assert len(labels) == len(shape.labels)
        key = (shape.exposed, *labels)
        self.totals[key] = self.totals.get(key, 0.0) + amount

    def set(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        self.level[(shape.exposed, *labels)] = value

    def observe(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        self.times.append(shape.exposed)


@pytest.fixture
def heard() -> Iterator[Heard]:
    meter = Heard()
    METERS.listen(meter)
    yield meter
    METERS.leave(meter)


def test_what_a_report_gains_is_counted_once(heard: Heard) -> None:
    report = IngestReport(market="um", dataset="klines")
    with measures_of("ingest", report, SystemClock()) as run:
        assert heard.level[("lakehouse_runs_active", "ingest")] == 1
        report.rows, report.bytes, report.files = 10, 300, 2
        run.advanced()
        run.advanced()
        assert heard.totals[("lakehouse_committed_rows_total", *OF)] == 10
        report.rows, report.quarantined = 25, 1
        report.reasons["BAD_ZIP"] += 1
        report.rows_quarantined = 4
    # What came after the last step is told at the end.
    assert heard.totals == {
        ("lakehouse_committed_rows_total", *OF): 25,
        ("lakehouse_source_bytes_total", *OF): 300,
        ("lakehouse_refused_rows_total", *OF): 4,
        ("lakehouse_units_total", "ingest", "done"): 2,
        ("lakehouse_units_total", "ingest", "refused"): 1,
        ("lakehouse_errors_total", "ingest", "BAD_ZIP"): 1,
        ("lakehouse_runs_total", "ingest", "partial"): 1,
    }
    assert heard.level[("lakehouse_runs_active", "ingest")] == 0
    assert heard.times == ["lakehouse_run_seconds"]


def test_a_run_says_how_it_ended(heard: Heard) -> None:
    def run(error: BaseException | None) -> None:
        report = BuildReport(products={"daily": ProductReport("daily", built=3, rows=7)})
        with measures_of("build", report, SystemClock()):
            if error is not None:
                raise error

    run(None)
    with pytest.raises(UnavailableError):
        run(UnavailableError("the catalog is away"))
    with pytest.raises(KeyboardInterrupt):
        run(KeyboardInterrupt())
    ended = {key[2]: n for key, n in heard.totals.items() if key[0] == "lakehouse_runs_total"}
    assert ended == {"ok": 1, "failed": 1, "stopped": 1}
    assert heard.totals[("lakehouse_errors_total", "build", "UnavailableError")] == 1
    assert heard.totals[("lakehouse_committed_rows_total", "build", "", "daily")] == 21


def test_what_is_no_progress_is_counted_all_the_same(heard: Heard) -> None:
    gaps = 0
    clock = SystemClock()
    with RunMeasures("stream", clock, lambda: {(STREAM_GAPS, ("spot",)): gaps}) as run:
        at_s = heard.level[("lakehouse_run_progress_timestamp_seconds", "stream")]
        gaps = 3
        run.tell()
        assert heard.totals == {("lakehouse_capture_gaps_total", "spot"): 3}
        assert heard.level[("lakehouse_run_progress_timestamp_seconds", "stream")] == at_s
