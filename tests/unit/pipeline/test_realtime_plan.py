from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.bronze.fill_plan import FillPlan
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.timespan import DAY_US, MINUTE_US, TimeRange, parse_time
from lakehouse_ray.model.venue import parse_market
from lakehouse_ray.pipeline.asked_before import (
    asked_of,
    ids_asked_of,
    settled_part,
    told_asked,
)
from lakehouse_ray.pipeline.realtime_plan import _lasts, _still_had, _tail
from lakehouse_ray.query.asked import ask_for
from lakehouse_ray.query.pinned import Kind
from lakehouse_ray.sources.rest import Rows

NOW_US = parse_time("2026-04-20T12:34:56")
moments = st.integers(parse_time("2015"), parse_time("2030"))


@given(moments, st.integers(1, 10**12))
def test_what_the_ledger_was_told_is_read_back(start_us: int, length_us: int) -> None:
    fill = Fill(
        "um", "aggTrades", "A", None, TimeRange(start_us, start_us + length_us), start_us
    )  # fmt: skip
    assert asked_of(told_asked(fill)) == fill.span
    assert ids_asked_of(told_asked(fill)) is None
    numbered = replace(fill, ids=(length_us, start_us))
    assert ids_asked_of(told_asked(numbered)) == (length_us, start_us)
    assert asked_of(told_asked(numbered)) is None


@given(st.text(max_size=80))
def test_other_details_tell_of_no_range(detail: str) -> None:
    assert asked_of(detail) is None
    assert ids_asked_of(detail) is None


def test_a_range_that_is_none_is_no_range() -> None:
    for text in ("", "[", "[2026, 2025)", "[2026-01-01, x)", "2026"):
        assert asked_of(f"asked for {text}") is None


def span(start: str, end: str) -> TimeRange:
    return TimeRange(parse_time(start), parse_time(end))


def settled(dataset: str, interval: str | None, rows: Rows) -> TimeRange | None:
    asked = span("2026-04-01", "2026-04-20T12:00")
    fill = Fill("um", dataset, "A", interval, asked, NOW_US)
    part = settled_part(fill, rows, DAY_US)
    return part.span if part is not None else None


def test_what_is_absent_is_settled_once_it_is_a_day_old() -> None:
    whole = span("2026-04-01", "2026-04-20T12:00")
    assert settled("klines", "1h", Rows()) == whole
    old = span("2026-04-05", "2026-04-06")
    assert settled("klines", "1h", Rows(absent=[old])) == whole
    # Bars that ended within the last day, and no others.
    last = span("2026-04-18", "2026-04-20T12:00")
    assert settled("klines", "1h", Rows(absent=[old, last])) == span(
        "2026-04-01", "2026-04-19T12:00"
    )
    assert settled("klines", "1d", Rows(absent=[last])) == span("2026-04-01", "2026-04-19")
    assert settled("klines", "1mo", Rows(absent=[whole])) is None
    assert settled("aggTrades", None, Rows(absent=[whole])) == span(
        "2026-04-01", "2026-04-19T12:34:56"
    )
    # As are cells that a row lacks.
    lacking = span("2026-04-20T11:00", "2026-04-20T11:05")
    assert settled("metrics", None, Rows(partial=[old])) == whole
    assert settled("metrics", None, Rows(partial=[old, lacking])) == TimeRange(
        whole.start_us, lacking.start_us
    )
    silent_us = parse_time("2026-04-20T11:59")
    assert settled("aggTrades", None, Rows(silent_us=silent_us)) == TimeRange(
        whole.start_us, silent_us
    )


def test_metrics_that_rest_has_no_more_are_not_asked_for() -> None:
    plan = FillPlan()
    metrics, klines = DATASETS["metrics"], DATASETS["klines"]
    assert _still_had(metrics, span("2022", "2023"), NOW_US, plan) is None
    left = _still_had(metrics, span("2026-01", "2026-04-20"), NOW_US, plan)
    assert left == span("2026-03-21T13:35", "2026-04-20")
    assert plan.skipped == {"no_history": 2}
    for dataset, asked in ((metrics, left), (klines, span("2022", "2023"))):
        assert asked is not None
        assert _still_had(dataset, asked, NOW_US, plan) == asked
    assert plan.skipped == {"no_history": 2}


def test_a_refusal_told_by_a_clock_that_was_ahead_does_not_hold_for_years() -> None:
    assert _lasts(NOW_US - MINUTE_US, NOW_US, DAY_US)
    assert _lasts(NOW_US + MINUTE_US, NOW_US, DAY_US)
    assert not _lasts(NOW_US - 2 * DAY_US, NOW_US, DAY_US)
    assert not _lasts(NOW_US + 3650 * DAY_US, NOW_US, DAY_US)


def tail(dataset: str, interval: str | None, last: str, **asked: str) -> TimeRange | None:
    times = {f"{name}_us": parse_time(text) for name, text in asked.items()}
    kind = Kind(DATASETS[dataset], parse_market("um"), interval)
    return _tail(kind, parse_time(last), ask_for(**times), NOW_US)  # type: ignore[arg-type]


def test_a_tail_ends_with_the_last_bar_that_is_over() -> None:
    found = tail("klines", "1h", "2026-04-20T09:00")
    assert found == TimeRange(parse_time("2026-04-20T10:00"), parse_time("2026-04-20T12:00"))
    assert tail("klines", "1h", "2026-04-20T11:00") is None
    found = tail("klines", "1m", "2026-04-20T12:30")
    assert found is not None
    assert found.end_us == parse_time("2026-04-20T12:34")
    assert tail("klines", "1mo", "2026-03-01") is None
    found = tail("klines", "1mo", "2026-01-01")
    assert found == TimeRange(parse_time("2026-02"), parse_time("2026-04"))
    found = tail("klines", "1w", "2026-04-06")
    assert found == TimeRange(parse_time("2026-04-13"), parse_time("2026-04-20"))


def test_a_tail_is_bounded_by_what_is_asked_for() -> None:
    found = tail("klines", "1h", "2026-04-10", start="2026-04-12", end="2026-04-13T00:30")
    assert found == TimeRange(parse_time("2026-04-12"), parse_time("2026-04-13"))
    assert tail("klines", "1h", "2026-04-10", end="2026-04-09") is None


def test_trades_begin_at_the_very_moment_of_the_last_one() -> None:
    found = tail("aggTrades", None, "2026-04-20T12:00")
    assert found is not None
    assert found.start_us == parse_time("2026-04-20T12:00")
    assert NOW_US - MINUTE_US < found.end_us < NOW_US
    found = tail("metrics", None, "2026-04-20T12:20")
    assert found == TimeRange(parse_time("2026-04-20T12:25"), parse_time("2026-04-20T12:30"))
    assert tail("metrics", None, "2026-04-20T12:25") is None
