"""What a report of quality is made of: sums, ranges of days, and cells of the heat map."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.verdicts import (
    START,
    alert_row,
    anomaly_row,
    difference_row,
    gap_row,
    score_row,
    verdict_of,
)

from lakehouse_ray.query.quality import Limits
from lakehouse_ray.query.quality_map import COLUMNS_MAX, UNITS, unit_for


def test_days_in_a_row_with_the_same_causes_are_one_range() -> None:
    rows = [score_row("A", day, 0.2) for day in range(3, 34)]
    rows += [score_row("A", 34, 0.1, "FLAGGED"), score_row("A", 36, 0.2), score_row("B", 4, 0.95)]
    verdict = verdict_of(rows)
    spans = verdict.spans.select("symbol", "codes", "first_day", "last_day", "days", "least").rows()
    assert spans == [
        ("A", "FLAGGED", date(2024, 2, 4), date(2024, 2, 4), 1, 0.1),
        ("A", "UNKNOWN", date(2024, 1, 4), date(2024, 2, 3), 31, 0.2),
        ("A", "UNKNOWN", date(2024, 2, 6), date(2024, 2, 6), 1, 0.2),
    ]
    assert (verdict.totals["poor"], verdict.totals["spans"]) == (33, 3)


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("AB"), st.integers(0, 20)),
        st.sampled_from([None, 0.0, 0.4, 0.8, 0.9, 1.0]),
        min_size=1,
    )
)
def test_no_day_is_lost_or_counted_twice(scores: dict[tuple[str, int], float | None]) -> None:
    verdict = verdict_of(score_row(s, day, value) for (s, day), value in scores.items())
    poor = sum(value is not None and value < 0.9 for value in scores.values())
    assert verdict.totals["days"] == len(scores)
    assert verdict.totals["poor"] == poor == verdict.poor.height
    assert verdict.spans["days"].sum() == poor
    assert verdict.distribution["days"].sum() == len(scores)
    assert verdict.cells["days"].sum() == len(scores)
    assert verdict.cells["poor"].sum() == poor
    assert verdict.series["poor"].sum() == verdict.kinds["poor"].sum() == poor


def test_what_was_lost_is_told_by_code_and_adds_up() -> None:
    reasons = (
        "ARCHIVE_HOLE: 6 of 24 rows are missing: not in this archive file; another file has them "
        "(-0.25); ANOMALIES: 1 finding in 18 rows (-0.05)"
    )
    rows = [
        score_row("A", 0, 0.7, codes="ARCHIVE_HOLE,ANOMALIES", reasons=reasons),
        score_row("B", 0, 0.5, "ARCHIVE_HOLE"),
        score_row("B", 1, 1.0),
    ]
    losses = verdict_of(rows).losses
    assert losses.select("code", "days", "lost").rows() == [
        ("ARCHIVE_HOLE", 2, 0.75),
        ("ANOMALIES", 1, 0.05),
    ]


def test_perfect_days_days_of_nothing_and_days_without_a_score_stand_by_themselves() -> None:
    values = [1.0, 1.0, 0.9999, 0.9, 0.0, None]
    rows = verdict_of(score_row("A", d, v) for d, v in enumerate(values)).distribution
    assert rows.select("low", "high", "days").rows() == [
        (0.0, 0.0, 1),
        (0.9, 0.95, 1),
        (0.999, 1.0, 1),
        (1.0, 1.0, 2),
        (None, None, 1),
    ]


def test_a_threshold_of_ones_own_is_an_edge_of_the_distribution() -> None:
    rows = [score_row("A", 0, 0.96), score_row("A", 1, 0.98)]
    found = verdict_of(rows, threshold=0.97).distribution
    assert found.select("low", "high").rows() == [(0.95, 0.97), (0.97, 0.99)]


@pytest.mark.parametrize(
    ("days", "unit"),
    [(1, "day"), (120, "day"), (121, "week"), (840, "month"), (3300, "month"), (3700, "quarter")],
)
def test_a_cell_is_the_shortest_unit_that_fits(days: int, unit: str) -> None:
    first = date(2017, 8, 17)
    assert unit_for(first, first + timedelta(days=days - 1)) == unit


@example(date(2009, 1, 1), 838)
@given(st.dates(date(2009, 1, 1), date(2040, 1, 1)), st.integers(1, 365 * 60))
def test_there_are_never_more_columns_than_fit(first: date, days: int) -> None:
    last = first + timedelta(days=days - 1)
    unit = unit_for(first, last)
    steps = dict(zip(UNITS, ("1d", "1w", "1mo", "1q", "1y"), strict=True))
    range_ = pl.Series([first, last]).dt.truncate(steps[unit])
    columns = pl.date_range(range_[0], range_[1], steps[unit], eager=True)
    assert len(columns) <= COLUMNS_MAX


def test_the_worst_day_of_a_month_is_seen_whatever_the_others_are() -> None:
    rows = [score_row("A", day, 1.0) for day in range(3000) if day != 1234]
    rows.append(score_row("A", 1234, 0.0))
    cells = verdict_of(rows).cells
    bad = cells.filter(pl.col("least") < 1)
    assert bad.height == 1
    when = (START + timedelta(days=1234)).date()
    assert bad.select("unit", "start", "worst_day", "poor", "least").row(0) == (
        "month", when.replace(day=1), when, 1, 0.0,
    )  # fmt: skip


def test_of_too_many_symbols_the_worst_stay() -> None:
    rows = [score_row(f"S{k:03}", day, 1.0) for k in range(300) for day in range(2)]
    rows += [score_row("BAD", 0, 0.1), score_row("BAD", 1, 1.0)]
    cells = verdict_of(rows, limits=Limits(cells=10 * COLUMNS_MAX)).cells
    names = cells["symbol"].unique(maintain_order=True).to_list()
    assert names[0] == "BAD"
    assert len(names) == 10


def test_lists_are_cut_and_totals_are_not() -> None:
    verdict = verdict_of(
        [score_row("A", 2 * day, 0.1) for day in range(30)],
        gaps=[gap_row("A", START + timedelta(days=d), START + timedelta(days=d, hours=d + 1), "outage")
              for d in range(9)],
        differences=[difference_row("A", hour) for hour in range(40)],
        anomalies=[anomaly_row("A", hour, "return_z", hour + 1.0) for hour in range(50)],
        alerts=[alert_row("A", 2 * day, 0.1) for day in range(7)],
        limits=Limits(days=5, spans=4, gaps=3, differences=2, anomalies=1, alerts=6),
    )  # fmt: skip
    frames = (verdict.poor, verdict.spans, verdict.gaps, verdict.differences, verdict.anomalies,
              verdict.alerts)  # fmt: skip
    assert [frame.height for frame in frames] == [5, 4, 3, 2, 1, 6]
    names = ("poor", "spans", "gaps", "differences", "anomalies", "alerts")
    assert [verdict.totals[name] for name in names] == [30, 30, 9, 40, 50, 7]
    assert verdict.gaps["missing"].to_list() == [9, 8, 7]
    assert verdict.anomalies["score"].to_list() == [50.0]


def test_the_most_unlikely_of_each_method_comes_before_the_second_of_any() -> None:
    rows = [anomaly_row("A", hour, "return_z", 100.0 + hour) for hour in range(5)]
    rows.append(anomaly_row("A", 9, "stale_price", 1.5))
    found = verdict_of([score_row("A", 0, 1.0)], anomalies=rows).anomalies
    assert found["method"].to_list()[:2] == ["return_z", "stale_price"]


def test_nothing_assessed_is_nothing_told() -> None:
    verdict = verdict_of([])
    assert (verdict.totals["days"], verdict.totals["mean"], verdict.totals["least"]) == (
        0,
        None,
        None,
    )
    assert verdict.cells.is_empty()


def test_alerts_that_were_told_again_as_they_went_on_are_one() -> None:
    rows = [
        alert_row("A", 0, 0.5), alert_row("A", 0, 0.4, days=2), alert_row("A", 0, 0.3, days=4),
        alert_row("A", 4, 0.5),
        # A day of rest; another reason; another symbol.
        alert_row("A", 6, 0.5, days=3), alert_row("A", 9, 0.5, "DIFFERS"),
        alert_row("B", 0, 0.5, days=9),
    ]  # fmt: skip
    verdict = verdict_of([score_row("A", 0, 0.5)], alerts=rows)
    start = START.date()
    told = {
        (row["symbol"], (row["first_day"] - start).days, (row["last_day"] - start).days):
        (row["days"], row["least"])
        for row in verdict.alerts.iter_rows(named=True)
    }  # fmt: skip
    assert told == {
        ("A", 0, 4): (5, 0.3), ("A", 6, 8): (3, 0.5), ("A", 9, 9): (1, 0.5), ("B", 0, 8): (9, 0.5),
    }  # fmt: skip
    assert verdict.totals["alerts"] == 4
