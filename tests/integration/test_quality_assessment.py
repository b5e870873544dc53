"""Assessments of quality: planted faults scored as by hand, run again, on Ray, and cut short."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.bars import BarLake, bars
from support.commands import MANY_BYTES, environment
from support.failing import Crashed, FailingCommitter, FailingWriter, crash
from support.in_process import run_here

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.runtime.session import RaySession

pytestmark = pytest.mark.integration

HOLE_DAY = datetime(2024, 5, 21, tzinfo=UTC)
FLAG_DAY = datetime(2024, 5, 22, tzinfo=UTC)


def clean(symbol: str) -> pl.DataFrame:
    """Four days of hours that break no rule: no made bar without trades."""
    rows = bars(symbol, "2024-05-20", 4, holes=0)
    return rows.with_columns(
        volume=pl.lit(10.0),
        trades=pl.lit(100, dtype=pl.Int64),
        quote_volume=10 * (pl.col("open") + pl.col("close")) / 2,
        taker_buy_volume=pl.lit(4.0),
        taker_buy_quote_volume=4 * (pl.col("open") + pl.col("close")) / 2,
    )


def planted() -> pl.DataFrame:
    """Four days of hours: six are missing on the second day, six have high and low exchanged on
    the third."""
    rows = clean("AAA")
    hour = pl.col("open_time").dt.hour()
    day = pl.col("open_time").dt.truncate("1d")
    rows = rows.filter(~((day == HOLE_DAY) & hour.is_between(6, 11)))
    odd = (day == FLAG_DAY) & hour.is_between(6, 11)
    return rows.with_columns(
        high=pl.when(odd).then("low").otherwise("high"),
        low=pl.when(odd).then("high").otherwise("low"),
    )


@pytest.fixture
def lake(tmp_path: Path) -> BarLake:
    lake = BarLake(tmp_path)
    lake.put(planted(), clean("BBB"))
    return lake


def run(lake: BarLake, *, on_ray: bool = False, **more: Any) -> AssessmentReport:
    return assess(lake.writer(on_ray=on_ray), AssessmentRequest(**more))


def ask(lake: BarLake, query: str) -> pl.DataFrame:
    with Reader(lake.writer().settings).lake.sql(query) as result:
        return result.pl()


def scores(lake: BarLake) -> dict[tuple[str, int], float]:
    found = ask(lake, "select symbol, day(day) as d, score from gold.quality order by all")
    return {(symbol, day): score for symbol, day, score in found.iter_rows()}


def assert_planted_scores(lake: BarLake) -> None:
    found = scores(lake)
    assert len(found) == 8
    # 6 of 24 hours are missing and nobody knows why; nothing else is wrong.
    assert found["AAA", 21] == pytest.approx(1 - 6 / 24)
    # 6 of 24 rows are flagged: half of each counts, and validity takes 0.45 at most.
    assert found["AAA", 22] == pytest.approx(1 - 0.45 * 0.5 * 6 / 24)
    assert all(score == 1 for key, score in found.items() if key not in {("AAA", 21), ("AAA", 22)})


def test_planted_faults_are_scored_as_by_hand(lake: BarLake) -> None:
    report = run(lake)
    assert (report.series, report.assessed, report.failed) == (2, 2, 0), report.examples
    assert_planted_scores(lake)
    gaps = ask(lake, "select symbol, missing, cause from silver.gaps")
    assert gaps.rows() == [("AAA", 6, "unknown")]
    alerts = ask(lake, "select symbol, day(day), codes from gold.alerts")
    assert alerts.height == 1
    assert alerts.row(0)[:2] == ("AAA", 21)


def test_a_second_run_makes_no_snapshot(lake: BarLake) -> None:
    run(lake)
    before = lake.snapshots()
    again = run(lake)
    assert (again.current, again.assessed, again.commits) == (2, 0, 0)
    assert lake.snapshots() == before


def test_what_was_mended_is_gone_and_an_alert_is_raised_once(lake: BarLake) -> None:
    run(lake)
    assert run(lake, again=True).alerts == 0
    lake.rewrite("silver.klines_coarse", lambda _: clean("AAA"))
    run(lake, asked=Asked(symbols=("AAA",)))
    assert ask(lake, "select * from silver.gaps").is_empty()
    assert {score for (symbol, _), score in scores(lake).items() if symbol == "AAA"} == {1.0}


def test_a_run_that_ends_before_its_last_commit_is_never_seen_and_made_up_for(
    lake: BarLake,
) -> None:
    writer = lake.writer(kind=FailingWriter)
    object.__setattr__(
        writer, "around", {"gold.assessment_log": lambda c: FailingCommitter(c, 1, before=crash)}
    )
    with pytest.raises(Crashed):
        assess(writer, AssessmentRequest())
    for view in ("gold.quality", "silver.gaps", "gold.alerts"):
        assert ask(lake, f"select * from {view}").is_empty()
    assert run(lake).alerts == 1
    assert_planted_scores(lake)


def test_quarters_that_do_not_make_their_hour_are_told_with_both_values(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    minutes = bars("AAA", "2024-05-20", 1, interval="1m", holes=0)
    # As the exchange's: prices of bars that traded.
    traded = pl.col("volume") > 0
    hours = (
        minutes.group_by_dynamic("open_time", every="1h")
        .agg(
            *(pl.col(name).first() for name in minutes.columns if name not in (*SUMMED, "open")),
            pl.col("open").filter(traded).first(), pl.col("high").filter(traded).max(),
            pl.col("low").filter(traded).min(), pl.col("close").filter(traded).last(),
            pl.col("close_time").last(),
            pl.col("volume", "quote_volume", "trades", "taker_buy_volume",
                   "taker_buy_quote_volume").sum(),
        )
        .with_columns(interval=pl.lit("1h"))
        .with_columns(
            trades=pl.when(pl.col("open_time").dt.hour() == 5)
            .then(pl.col("trades") + 7)
            .otherwise("trades")
        )
        .select(minutes.columns)
    )  # fmt: skip
    lake.put(minutes, hours)
    run(lake)
    found = ask(lake, 'select "column", "left", "right" from gold.cross_checks')
    assert [(row[0], row[2] - row[1]) for row in found.rows()] == [("trades", 7)]
    compared = ask(lake, "select compared, differing from gold.quality where \"interval\" = '1h'")
    assert compared.rows() == [(24, 1)]


SUMMED = {
    "open_time", "high", "low", "close", "close_time", "volume", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume",
}  # fmt: skip


def test_on_ray_it_is_the_same(lake: BarLake, ray_session: RaySession) -> None:
    report = run(lake, on_ray=True)
    assert (report.executor, report.assessed, report.failed) == ("ray", 2, 0), report.examples
    assert_planted_scores(lake)


def test_a_symbol_that_does_not_exist_is_an_error_with_a_hint(lake: BarLake) -> None:
    with pytest.raises(NotFoundError) as caught:
        run(lake, asked=Asked(symbols=("AAB",)))
    assert "AAA" in caught.value.hint


def test_the_command_fails_with_the_quality_code_where_a_day_is_under_the_threshold(
    lake: BarLake, tmp_path: Path
) -> None:
    env = environment(HOME=lake.home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES)
    file = tmp_path / "report.json"
    done = run_here("quality", "--json", "--report-json", str(file), env=env)
    assert done.returncode == 5, done.stderr
    told = json.loads(done.stdout)
    assert [day["symbol"] for day in told["worst_days"]] == ["AAA"]
    # BBB has rows then, but no file of AAA is known at all.
    assert told["worst_days"][0]["codes"] == "UNKNOWN"
    assert told["recommendations"][0]["action"] == "fetch"
    assert json.loads(file.read_text()) == told
    for more, code in (
        (("--threshold", "0.7"), 0),
        (("--symbols", "BBB"), 0),
        (("--start", "2024-05-22"), 0),
        (("--symbols", "AAB"), 4),
    ):
        assert run_here("quality", "--json", *more, env=env).returncode == code, more
