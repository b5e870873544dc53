"""A series in pieces with what is carried between them is the series in one run."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.talib_bars import REFERENCES, bars, difference, walk

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators import compute as compute_module
from lakehouse_ray.kernels.indicators.compute import Carry, compute
from lakehouse_ray.kernels.indicators.registry import parse_names

NAMES = [*REFERENCES, "bbands_50_2", "ema_100"]
OUTPUTS = [output for request in parse_names(NAMES) for output in request.outputs]
# Not the same bits, since they are not computed row by row.
ROUNDED = ("kama", "rma", "atr", "natr", "kc_", "rsi", "plus_di", "minus_di", "adx")


def in_pieces(frame: pl.DataFrame, cuts: list[int], names: list[str]) -> pl.DataFrame:
    carry: Carry | None = None
    parts = []
    for start, end in pairwise([0, *sorted(cuts), frame.height]):
        part, carry = compute(frame[start:end], names, "1m", carry)
        carry = pickle.loads(pickle.dumps(carry))
        parts.append(part)
    return pl.concat(parts)


def assert_same(found: pl.DataFrame, expected: pl.DataFrame, columns: list[str]) -> None:
    for column in columns:
        ours, whole = found[column], expected[column]
        assert ours.is_null().equals(whole.is_null()), column
        if column.startswith(ROUNDED):
            assert difference(ours.to_numpy(), whole.to_numpy()) < 1e-12, column
        else:
            assert ours.equals(whole, null_equal=True), column


@st.composite
def interrupted(draw: st.DrawFn) -> tuple[pl.DataFrame, list[int]]:
    """A walk with flat stretches, gaps and holes, and where to cut it."""
    size = draw(st.integers(1, 500))
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    price = draw(st.sampled_from([1e-6, 1.0, 50_000.0]))
    step = draw(st.sampled_from([1e-4, 1e-2]))
    moves = chance.normal(0, step, size)
    for _ in range(draw(st.integers(0, 2))):
        start = chance.integers(0, size)
        moves[start : start + chance.integers(1, 80)] = 0.0
    frame = bars(price * np.exp(np.cumsum(moves)), int(chance.integers(1000)), spread=step / 5)
    for column in draw(st.lists(st.sampled_from(["high", "close", "volume"]), max_size=2)):
        values = frame[column].to_list()
        values[int(chance.integers(0, size))] = draw(st.sampled_from([None, float("nan")]))
        frame = frame.with_columns(pl.Series(column, values, dtype=pl.Float64))
    gone = chance.integers(0, size, draw(st.integers(0, 3)))
    frame = frame.filter(~pl.Series(np.isin(np.arange(size), gone)))
    cuts = st.lists(st.integers(0, frame.height), max_size=8)
    return frame, draw(cuts)


@given(interrupted())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_pieces_of_any_size_give_what_one_run_gives(case: tuple[pl.DataFrame, list[int]]) -> None:
    frame, cuts = case
    whole, _ = compute(frame, NAMES, "1m")
    assert_same(in_pieces(frame, cuts, NAMES), whole, OUTPUTS)


@given(interrupted(), st.integers(0, 100))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_after_a_gap_depends_on_what_came_before(
    case: tuple[pl.DataFrame, list[int]], other: int
) -> None:
    frame, _ = case
    assume(frame.height > 0)
    first_us = frame["open_time"].dt.timestamp("us").min()
    assert isinstance(first_us, int)
    before = walk(200, other, price=3.0)
    shift = first_us - 2 * 60_000_000 - int(before["open_time"].dt.timestamp("us")[-1])
    before = before.with_columns(pl.col("open_time") + pl.duration(microseconds=shift))
    alone, _ = compute(frame, NAMES, "1m")
    after, _ = compute(pl.concat([before, frame]), NAMES, "1m")
    assert_same(after[200:], alone, OUTPUTS)


def test_one_row_at_a_time_gives_what_one_run_gives() -> None:
    frame = walk(160, 5)
    whole, _ = compute(frame, NAMES, "1m")
    assert_same(in_pieces(frame, list(range(1, 160)), NAMES), whole, OUTPUTS)


def test_day_by_day_gives_what_one_run_gives() -> None:
    frame = walk(6 * 1_440, 6, price=30_000, volatility=5e-4)
    whole, _ = compute(frame, NAMES, "1m")
    assert_same(in_pieces(frame, [1_440 * day for day in range(1, 6)], NAMES), whole, OUTPUTS)


def test_blocks_inside_of_a_run_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = walk(3_000, 7).with_row_index("row").filter(pl.col("row") != 1_000).drop("row")
    whole, _ = compute(frame, NAMES, "1m")
    monkeypatch.setattr(compute_module, "BLOCK_ROWS", 256)
    blocks, _ = compute(frame, NAMES, "1m")
    assert_same(blocks, whole, OUTPUTS)


def test_what_is_carried_is_small_however_long_the_series_was() -> None:
    sizes = []
    for rows in (1_000, 50_000):
        _, carry = compute(walk(rows, 1), NAMES, "1m")
        sizes.append(len(pickle.dumps(carry)))
    assert sizes[1] <= sizes[0] < 100_000


def test_a_piece_without_bars_changes_nothing() -> None:
    frame = walk(100, 2)
    _, carry = compute(frame[:60], "ema_20", "1m")
    nothing, same = compute(frame[60:60], "ema_20", "1m", carry)
    assert same is carry
    assert nothing.columns == [*frame.columns, "ema_20"]
    assert nothing.schema["ema_20"] == pl.Float64


def test_a_carry_serves_only_what_it_was_made_for() -> None:
    frame = walk(100, 2)
    _, carry = compute(frame[:60], "ema_20", "1m")
    with pytest.raises(InvalidError, match="made with ema_20 of 1m"):
        compute(frame[60:], "ema_21", "1m", carry)
    with pytest.raises(InvalidError, match="made with ema_20 of 1m"):
        compute(frame[60:], "ema_20", "5m", carry)
    with pytest.raises(InvalidError, match="not in the order of time"):
        compute(frame[59:], "ema_20", "1m", carry)


def test_a_gap_between_two_pieces_is_seen_from_their_times() -> None:
    frame = walk(100, 2)
    _, carry = compute(frame[:50], "sma_3", "1m")
    found, _ = compute(frame[51:], "sma_3", "1m", carry)
    assert found["sma_3"].null_count() == 2
