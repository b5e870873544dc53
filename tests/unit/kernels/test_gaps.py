"""Gaps by rhythm: against counting slot by slot in plain Python, and in pieces as in one run."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lakehouse_ray.kernels.gaps import (
    Carry,
    Ends,
    edges,
    find_gaps,
    hole,
    scan_symbols,
    slot,
)
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.rhythm import About, Grid, Ids, Months, OwnHours, Rhythm, rhythm_of
from lakehouse_ray.model.timespan import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    TimeRange,
    parse_time,
    to_us,
)

TIME = pl.Datetime("us", "UTC")
Found = list[tuple[int, int, int]]


def piece(times: list[int], own: list[int] | None = None) -> pl.DataFrame:
    frame = pl.DataFrame({"time": times}, schema={"time": pl.Int64}).cast(TIME)
    if own is None:
        return frame
    return frame.with_columns(own=pl.Series(own, dtype=pl.Int64))


def rows(gaps: pl.DataFrame) -> Found:
    return [(to_us(a), to_us(b), n) for a, b, n in gaps.iter_rows()]


def found(rhythm: Rhythm, times: list[int], own: list[int] | None = None) -> Found:
    return rows(find_gaps(rhythm, piece(times, own))[0])


def scan(rhythm: Rhythm, pieces: list[pl.DataFrame]) -> tuple[pl.DataFrame, Ends | None]:
    """Gaps of one series that comes in pieces, its first and its last row."""
    scans = scan_symbols(rhythm, [one.with_columns(symbol=pl.lit("A")) for one in pieces])
    return scans.gaps.drop("symbol"), scans.ends.get("A")


def us(text: str) -> int:
    return parse_time(text)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(0, 3),
)
def test_gaps_on_a_grid_are_the_slots_without_a_row(
    times: list[int], step: int, anchor: int
) -> None:
    times.sort()
    covered = {(time - anchor) // step for time in times}
    missing = [k for k in range(min(covered), max(covered)) if k not in covered]
    wanted: Found = []
    for k in missing:
        start, end = anchor + k * step, anchor + (k + 1) * step
        if wanted and wanted[-1][1] == start:
            wanted[-1] = (wanted[-1][0], end, wanted[-1][2] + 1)
        else:
            wanted.append((start, end, 1))
    assert found(Grid(step, anchor), times) == wanted


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30, unique=True))
def test_gaps_of_months_are_the_months_without_a_bar(months: list[int]) -> None:
    months.sort()
    opens = [to_us(datetime(1990 + m // 12, m % 12 + 1, 1, tzinfo=UTC)) for m in months]
    gaps = found(Months(), opens)
    absent = {m for m in range(months[0], months[-1]) if m not in set(months)}
    told = set()
    for start, end, missing in gaps:
        first, last = (
            datetime.fromtimestamp(start // 10**6, UTC),
            datetime.fromtimestamp(end // 10**6, UTC),
        )
        span = range(
            (first.year - 1990) * 12 + first.month - 1, (last.year - 1990) * 12 + last.month - 1
        )
        assert missing == len(span)
        told |= set(span)
    assert told == absent


RHYTHMS: tuple[Rhythm, ...] = (
    Grid(5),
    Grid(7, None),
    Months(),
    OwnHours("h"),
    About(30 * SECOND_US, 30 * SECOND_US),
    Ids("id"),
)


@pytest.mark.parametrize("rhythm", RHYTHMS, ids=str)
@given(data=st.data())
def test_pieces_with_a_carry_give_what_one_run_gives(rhythm: Rhythm, data: st.DataObject) -> None:
    scale = {OwnHours: HOUR_US, Months: 20 * DAY_US, About: 10 * SECOND_US}.get(type(rhythm), 1)
    times = sorted(data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=40)))
    times = [time * scale for time in times]
    own = data.draw(
        st.lists(st.sampled_from([1, 4, 8]), min_size=len(times), max_size=len(times))
        if isinstance(rhythm, OwnHours)
        else st.lists(st.integers(1, 500), min_size=len(times), max_size=len(times))
    )
    whole = piece(times, own)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(times)), max_size=6)))
    bounds = [0, *cuts, len(times)]
    parts = [whole.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    one, many = scan(rhythm, [whole]), scan(rhythm, parts)
    assert_frame_equal(many[0], one[0])
    assert many[1] == one[1]


@pytest.mark.parametrize("rhythm", RHYTHMS, ids=str)
@given(data=st.data())
def test_many_symbols_at_once_give_what_each_gives_alone(
    rhythm: Rhythm, data: st.DataObject
) -> None:
    scale = {OwnHours: HOUR_US, Months: 20 * DAY_US, About: 10 * SECOND_US}.get(type(rhythm), 1)
    frames = []
    for symbol in data.draw(st.lists(st.sampled_from("ABCDE"), unique=True, min_size=1)):
        times = sorted(data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=20)))
        own = data.draw(st.lists(st.integers(1, 9), min_size=len(times), max_size=len(times)))
        frame = piece([time * scale for time in times], own)
        frames.append(frame.with_columns(symbol=pl.lit(symbol)))
    whole = pl.concat(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, whole.height), max_size=6)))
    bounds = [0, *cuts, whole.height]
    found = scan_symbols(rhythm, [whole.slice(a, b - a) for a, b in itertools.pairwise(bounds)])
    for frame in frames:
        symbol = frame["symbol"][0]
        gaps, ends = scan(rhythm, [frame])
        assert_frame_equal(found.gaps.filter(symbol=symbol).drop("symbol"), gaps)
        assert found.ends[symbol] == ends


def test_the_bars_of_february_2018_that_run_off_the_grid_leave_no_false_gaps() -> None:
    off = us("2018-02-09T09:28:14.789")
    times = [us("2018-02-07T23:00"), us("2018-02-08T00:00")]
    times += [off + k * HOUR_US for k in range(43)]
    times += [us("2018-02-11T04:00"), us("2018-02-11T05:00")]
    assert found(Grid(HOUR_US), times) == [(us("2018-02-08T01:00"), us("2018-02-09T09:00"), 32)]


def test_weeks_begin_on_monday_and_months_have_their_own_length() -> None:
    weeks = rhythm_of(DATASETS["klines"], "spot", "1w")
    assert weeks is not None
    gaps = found(weeks, [us("2024-01-01"), us("2024-01-22")])
    assert gaps == [(us("2024-01-08"), us("2024-01-22"), 2)]
    months = rhythm_of(DATASETS["klines"], "spot", "1mo")
    assert months == Months()
    gaps = found(months, [us("2024-01-01"), us("2024-04-01")])
    assert gaps == [(us("2024-02-01"), us("2024-04-01"), 2)]


def test_three_day_bars_are_counted_from_the_first_one() -> None:
    rhythm = rhythm_of(DATASETS["klines"], "spot", "3d")
    assert rhythm is not None
    gaps = found(rhythm, [us("2024-01-02"), us("2024-01-05"), us("2024-01-11")])
    assert gaps == [(us("2024-01-08"), us("2024-01-11"), 1)]


def test_funding_goes_by_its_own_hours_and_a_change_of_them_is_no_gap() -> None:
    rhythm = rhythm_of(DATASETS["fundingRate"], "um", None)
    assert rhythm is not None
    hours = [0, 8, 16, 24, 28, 32, 33, 34, 42, 50]
    own = [8, 8, 8, 8, 4, 4, 1, 1, 8, 8]
    times = [hour * HOUR_US + 13_000 for hour in hours]  # 13 ms of jitter
    assert found(rhythm, times, own) == []
    # Two payments of 4 hours are missing: at 8 and 12 o'clock.
    gaps = found(rhythm, [4 * HOUR_US, 16 * HOUR_US + 8_000], [4, 4])
    assert gaps == [(8 * HOUR_US, 16 * HOUR_US, 2)]


def test_metrics_a_few_seconds_late_are_in_their_slot() -> None:
    rhythm = rhythm_of(DATASETS["metrics"], "um", None)
    assert rhythm is not None
    start = us("2024-03-04T00:05")
    times = [start + k * 5 * MINUTE_US + late for k, late in enumerate([0, SECOND_US, 0])]
    assert found(rhythm, times) == []
    assert found(rhythm, [times[0], times[2]]) == [(times[0] + 5 * MINUTE_US, times[2], 1)]


def test_depth_may_come_late_once_but_not_twice() -> None:
    rhythm = rhythm_of(DATASETS["bookDepth"], "um", None)
    assert isinstance(rhythm, About)
    at = [0, 0, 0, 31, 58, 118, 240]  # a snapshot has several rows
    times = [second * SECOND_US for second in at]
    assert found(rhythm, times) == [(148 * SECOND_US, 240 * SECOND_US, 3)]


def test_numbered_trades_have_gaps_where_ids_jump_and_none_where_they_begin_again() -> None:
    times = [10, 10, 11, 15, 15, 20]
    ids = [5, 6, 7, 11, 2, 3]
    assert found(Ids("id"), times, ids) == [(11, 15, 3)]


def test_jumps_of_ids_within_one_moment_are_one_gap() -> None:
    gaps = scan(Ids("id"), [piece([10, 10, 10], [1, 3, 6])])[0]
    assert rows(gaps) == [(10, 11, 3)]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=25, unique=True))
def test_a_run_of_ids_may_come_as_one_row(ids: list[int]) -> None:
    ids.sort()
    each = piece([i * 10 for i in ids], ids)
    runs: list[list[int]] = []
    for i in ids:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    short = piece([r[0] * 10 for r in runs], [r[0] for r in runs]).with_columns(
        until=pl.Series([r[-1] * 10 for r in runs]).cast(TIME),
        own_until=pl.Series([r[-1] for r in runs]),
    )
    assert_frame_equal(scan(Ids("id"), [short])[0], scan(Ids("id"), [each])[0])


def test_what_has_no_rhythm_says_so() -> None:
    def rhythm(name: str, market: str = "um") -> Rhythm | None:
        return rhythm_of(DATASETS[name], market, None)

    assert rhythm("bookTicker") is rhythm("liquidationSnapshot") is rhythm("trades") is None
    # Ids of futures trades have holes by nature; those of spot do not.
    assert rhythm("trades", "spot") == Ids("id")


def test_every_data_set_and_interval_has_a_rhythm_or_none_without_fail() -> None:
    for dataset in DATASETS.values():
        for market in dataset.archive:
            intervals = (*dataset.coarse_intervals, "1s", "1m") if dataset.bars else (None,)
            rhythms = [rhythm_of(dataset, market, interval) for interval in intervals]
            assert not dataset.bars or all(rhythms)


@given(st.integers(-50, 50), st.integers(0, 60), st.integers(1, 9), st.integers(0, 20))
def test_a_hole_has_the_slots_that_begin_in_it(
    start: int, length: int, step: int, anchor: int
) -> None:
    start, end = start + 100, start + 100 + length
    begins = [k for k in range(-200, 400) if start <= anchor + k * step < end]
    gaps = rows(hole(Grid(step, anchor), start, end, Carry(0, 0, anchor)))
    if not begins:
        assert gaps == []
    else:
        first, last = anchor + begins[0] * step, anchor + (begins[-1] + 1) * step
        assert gaps == [(first, last, len(begins))]


def test_the_ends_of_a_range_are_gaps_before_the_first_and_after_the_last_row() -> None:
    rhythm = Grid(HOUR_US)
    _, series = scan(rhythm, [piece([us("2024-01-01T03:00"), us("2024-01-01T04:00")])])
    assert series is not None
    span = TimeRange(us("2024-01-01T00:30"), us("2024-01-01T07:00"))
    assert rows(edges(rhythm, series, span)) == [
        (us("2024-01-01T01:00"), us("2024-01-01T03:00"), 2),
        (us("2024-01-01T05:00"), us("2024-01-01T07:00"), 2),
    ]
    assert rows(edges(Ids("id"), (Carry(1, 1, 0), Carry(1, 1, 0)), TimeRange(0, 9))) == []


@pytest.mark.parametrize("rhythm", RHYTHMS, ids=str)
def test_a_row_lies_in_its_slot(rhythm: Rhythm) -> None:
    row = Carry(us("2024-02-15T13:37:02"), 8, 0)
    span = slot(rhythm, row)
    assert span.start_us <= row.last_us < span.end_us


def test_symbols_that_come_one_after_another_are_kept_apart_across_pieces() -> None:
    rhythm = Grid(1)
    frame = pl.concat(
        [
            piece([1, 2, 5, 6]).with_columns(symbol=pl.lit("A")),
            piece([3, 4, 9]).with_columns(symbol=pl.lit("B")),
        ]
    )
    scans = scan_symbols(rhythm, [frame.slice(0, 2), frame.slice(2, 3), frame.slice(5, 2)])
    gaps = {name: frame.drop("symbol") for (name,), frame in scans.gaps.group_by("symbol")}
    assert {name: rows(frame) for name, frame in gaps.items()} == {
        "A": [(3, 5, 2)],
        "B": [(5, 9, 4)],
    }
    assert {name: [end.last_us for end in ends] for name, ends in scans.ends.items()} == {
        "A": [1, 6],
        "B": [3, 9],
    }
