"""What a run tells while it is at work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.pipeline.fold_report import FoldReport
from lakehouse_ray.pipeline.gold_report import BuildReport, ProductReport
from lakehouse_ray.pipeline.measured import measures_of
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.pipeline.run_measures import RunMeasures
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


def test_whoever_hears_of_a_run_later_hears_its_beginning_and_its_end_once(heard: Heard) -> None:
    METERS.leave(heard)
    with measures_of("ingest", IngestReport(), SystemClock()) as run:
        METERS.listen(heard)
        with run.heard():
            assert heard.level[("lakehouse_runs_active", "ingest")] == 1
        assert heard.level[("lakehouse_runs_active", "ingest")] == 0
        assert heard.totals == {("lakehouse_runs_total", "ingest", "ok"): 1}
    assert heard.totals == {("lakehouse_runs_total", "ingest", "ok"): 1}


def test_a_run_that_fails_before_anything_is_planned_is_counted(heard: Heard) -> None:
    with pytest.raises(UnavailableError), measures_of("ingest", IngestReport(), SystemClock()):
        raise UnavailableError("the listing is out of reach")
    assert heard.totals == {
        ("lakehouse_runs_total", "ingest", "failed"): 1,
        ("lakehouse_errors_total", "ingest", "UnavailableError"): 1,
    }
    assert heard.level[("lakehouse_runs_active", "ingest")] == 0


def test_the_log_has_the_beginning_and_the_end_of_a_run_with_what_it_counted() -> None:
    report = IngestReport(run_id="r1", market="um", dataset="klines")
    with capture_logs(processors=[merge_contextvars]) as said:
        with measures_of("ingest", report, SystemClock()):
            report.rows, report.bytes, report.files, report.failed = 25, 300, 2, 1
        with measures_of("fold", FoldReport(0, "r2"), SystemClock()):
            pass
    ended = [one for one in said if one["event"] == "run ended"]
    assert [one["event"] for one in said] == ["run started", "run ended"] * 2
    assert [one["run_id"] for one in said] == ["r1", "r1", "r2", "r2"]
    assert {k: v for k, v in ended[0].items() if k not in ("event", "log_level", "seconds")} == {
        "workflow": "ingest", "run_id": "r1", "state": "partial",
        "rows": 25, "rows_refused": 0, "bytes": 300,
        "units_done": 2, "units_refused": 0, "units_failed": 1,
    }  # fmt: skip
    assert (ended[1]["workflow"], ended[1]["state"], ended[1]["rows"]) == ("fold", "ok", 0)


def test_the_log_says_by_which_kind_of_error_a_run_failed() -> None:
    with (
        capture_logs() as said,
        pytest.raises(UnavailableError),
        measures_of("build", BuildReport(), SystemClock()) as run,
        run.heard(),
    ):
        raise UnavailableError("the catalog is away")
    (failed,) = [one for one in said if one["event"] == "run failed"]
    assert (failed["log_level"], failed["workflow"], failed["state"]) == (
        "warning",
        "build",
        "failed",
    )
    assert (failed["error_kind"], failed["error"]) == ("UnavailableError", "the catalog is away")
