"""Rows of REST and of streams end in the tables as rows of files do, by the one rule."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from support.live_rows import live_rows, version

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.dataset import PRECEDENCE
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, TimeRange, day_range, month_range
from lakehouse_ray.silver.resolve import key_of, resolve, with_day
from lakehouse_ray.silver.rows_work import BuiltRows, build_rows, cut_rows
from lakehouse_ray.storage.catalog import TableCatalog
from lakehouse_ray.storage.files import index_files

MakeLake = Callable[..., Any]
KLINES = DATASETS["klines"]
AGG_TRADES = DATASETS["aggTrades"]
DAYS = [day_range(date(2024, 1, 30) + timedelta(days=n)) for n in range(3)]
MONTH = month_range(2024, 1)
START_US = DAYS[0].start_us

SLOW = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KINDS = st.sampled_from(["rest", "stream"])


def merge(lake: Any, frame: pl.DataFrame) -> list[BuiltRows]:
    """Merge rows into a small lake, unit after unit."""
    lake.runs += 1
    made = []
    for unit in cut_rows(lake.dataset, frame):
        index = index_files(lake.table, TableCatalog(lake.access).find(lake.table.name))
        built = build_rows(
            lake.store, unit, unit.seen(index), run_id=f"{lake.runs}", now_us=lake.now_us
        )
        request = replace(built.silver, id=f"{unit.id}-{lake.runs}")
        (outcome,) = lake.committer.commit([request])
        assert outcome.committed
        lake.quarantine.commit([replace(built.quarantine, id=f"{unit.id}-{lake.runs}")])
        made.append(built)
    return made


def klines_csv(period: TimeRange, rows: dict[int, int]) -> bytes:
    def line(hour: int, value: int) -> str:
        open_ms = (period.start_us + hour * HOUR_US) // 1000
        cells = [open_ms, *[value] * 5, open_ms + 3_599_999, *[value] * 4, 0]
        return ",".join(map(str, cells)) + "\n"

    header = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
    return (header + "".join(line(*row) for row in sorted(rows.items()))).encode()


def values(lake: Any) -> dict[tuple[int, str], int]:
    """Value and kind of source of each row by its hour since the first day."""
    frame = lake.frame()
    if frame.is_empty():
        return {}
    hours = ((frame["open_time"].dt.epoch("us") - START_US) // HOUR_US).to_list()
    assert len(set(hours)) == len(hours), "one row per key"
    return dict(zip(zip(hours, frame["source"], strict=True), frame["open"], strict=True))


@SLOW
@given(
    files=st.lists(
        st.tuples(
            st.one_of(st.tuples(st.just("daily"), st.integers(0, 2)), st.just(("monthly", 0))),
            st.dictionaries(st.integers(0, 23), st.integers(1, 3), max_size=5),
        ),
        max_size=4,
        unique_by=lambda file: file[0],
    ),
    answers=st.lists(
        st.tuples(KINDS, st.lists(st.tuples(st.integers(0, 71), st.integers(1, 3)), max_size=6)),
        max_size=5,
    ),
    seed=st.integers(0, 2**16),
)
def test_any_order_and_any_batching_of_rows_and_files_gives_the_same_table(
    make_lake: MakeLake,
    files: list[tuple[tuple[str, int], dict[int, int]]],
    answers: list[tuple[str, list[tuple[int, int]]]],
    seed: int,
) -> None:
    rng = random.Random(seed)
    lake = make_lake(KLINES, "um", "1h")
    # (precedence, order among equals) -> rows by hour: the rule in plain Python.
    claims: dict[int, list[tuple[int, int, str, int]]] = defaultdict(list)
    steps: list[Callable[[], object]] = []
    for (freq, number), rows in files:
        period = MONTH if freq == "monthly" else DAYS[number]
        first = (period.start_us - START_US) // HOUR_US
        if freq == "monthly":
            rows = {29 * 24 + hour: value for hour, value in rows.items()}
        for hour, value in rows.items():
            claims[first + hour].append((PRECEDENCE[freq], -number, freq, value))

        def publish(freq: str = freq, period: TimeRange = period, rows: Any = rows) -> None:
            lake.publish("BTCUSDT", freq, period, klines_csv(period, rows))
            lake.ingest(freq)

        steps.append(publish)
    batches: dict[int, list[pl.DataFrame]] = defaultdict(list)
    for second, (kind, rows_) in enumerate(answers):
        said = defaultdict(set)
        for hour, value in rows_:
            said[hour].add(value)
        for hour, found in said.items():
            if len(found) == 1:
                claims[hour].append((PRECEDENCE[kind], -second, kind, found.pop()))
        frame = live_rows(
            KLINES,
            [(START_US + hour * HOUR_US, value, version(second)) for hour, value in rows_],
            source=kind,
            interval="1h",
        )
        batches[rng.randrange(3)].append(frame)
    for frames in batches.values():
        mixed = pl.concat(rng.sample(frames, len(frames)))
        steps.append(partial(merge, lake, mixed))
    rng.shuffle(steps)
    for step in steps:
        step()
    wanted = {(hour, best[2]): best[3] for hour, found in claims.items() for best in [min(found)]}
    assert values(lake) == wanted
    snapshot = lake.committer.snapshot_id()
    for frames in batches.values():
        for frame in frames:
            merge(lake, frame)
    assert lake.committer.snapshot_id() == snapshot, "merging again changes nothing"


@SLOW
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 3), st.integers(0, 3), KINDS),
        min_size=1,
        max_size=30,
        unique_by=lambda row: (row[0], row[2], row[3]),
    ),
    cuts=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_rows_merged_in_parts_are_those_of_resolve_over_all_of_them(
    make_lake: MakeLake, rows: list[tuple[int, int, int, str]], cuts: int, seed: int
) -> None:
    """Trades, whose key holds within a day: hours 0 to 40 are two days of two months."""
    rng = random.Random(seed)
    start_us = DAYS[1].start_us
    frame = pl.concat(
        live_rows(
            AGG_TRADES,
            [(start_us + hour * HOUR_US, value, version(second))],
            source=kind,
            symbol=rng.choice(["BTCUSDT", "ETHUSDT"]),
        )
        for hour, value, second, kind in rows
    )
    # The same ids on the day before and the day after.
    frame = frame.with_columns(agg_trade_id=pl.col("agg_trade_id") % (DAY_US // 1_000_000))
    lake = make_lake(AGG_TRADES, "um")
    shuffled = frame.sample(fraction=1, shuffle=True, seed=seed)
    size = -(-shuffled.height // cuts)
    for part in shuffled.iter_slices(size):
        merge(lake, part)
    wanted, rivals = resolve(with_day(frame, AGG_TRADES), ("symbol", *key_of(AGG_TRADES)))
    assert rivals.is_empty()
    order = ["symbol", "transact_time", "agg_trade_id"]
    assert_frame_equal(
        lake.frame().select(frame.columns).sort(order), wanted.select(frame.columns).sort(order)
    )


def test_a_table_sealed_by_the_archive_is_that_of_a_lake_without_live_rows(
    make_lake: MakeLake,
) -> None:
    live, plain = (make_lake(KLINES, "um", "1h") for _ in range(2))
    rows = [(START_US + hour * HOUR_US, 7.0, version(1)) for hour in range(24)]
    plain.runs += 2  # its file is published at the same moment
    merge(live, live_rows(KLINES, rows, interval="1h"))
    merge(live, live_rows(KLINES, rows, source="stream", interval="1h"))
    for lake in (live, plain):
        lake.publish(
            "BTCUSDT", "daily", DAYS[0], klines_csv(DAYS[0], {h: h + 1 for h in range(24)})
        )
        lake.ingest()
    assert_frame_equal(live.frame().sort("open_time"), plain.frame().sort("open_time"))
    snapshot = live.committer.snapshot_id()
    (built,) = merge(live, live_rows(KLINES, rows, interval="1h"))
    assert (built.rows, built.rows_replaced, built.rows_known) == (0, 0, 24)
    assert live.committer.snapshot_id() == snapshot, "the archive's rows stay"


def test_rows_are_marked_and_counted(make_lake: MakeLake) -> None:
    lake = make_lake(KLINES, "um", "1h")
    rows = live_rows(
        KLINES, [(START_US, 7, version(1)), (START_US + 1, 7, version(1))], interval="1h"
    )
    (built,) = merge(lake, rows)
    assert (built.rows, built.rows_replaced, built.rows_known, built.rows_refused) == (2, 0, 0, 0)
    fine, odd = lake.frame().sort("open_time")["flags"]
    assert "OFF_GRID" in odd
    assert "OFF_GRID" not in fine
    (built,) = merge(lake, live_rows(KLINES, [(START_US, 8, version(2))], interval="1h"))
    assert (built.rows, built.rows_replaced, built.rows_known) == (0, 1, 0)
    (built,) = merge(lake, live_rows(KLINES, [(START_US, 9, version(1))], interval="1h"))
    assert (built.rows, built.rows_replaced, built.rows_known) == (0, 0, 1), "an older answer"


def test_rows_no_table_can_hold_go_to_the_quarantine_and_the_rest_flows_on(
    make_lake: MakeLake,
) -> None:
    lake = make_lake(KLINES, "um", "1h")
    hour = [START_US + n * HOUR_US for n in range(6)]
    rows = live_rows(
        KLINES,
        [(t, 7, version(1)) for t in hour] + [(hour[4], 8, version(1)), (hour[5], 7, version(1))],
        interval="1h",
    )
    n = pl.int_range(pl.len())
    rows = rows.with_columns(
        open=pl.when(n == 1).then(None).when(n == 2).then(float("nan")).otherwise("open"),
        open_time=pl.when(n == 3)
        .then(pl.lit(datetime(1970, 1, 2, tzinfo=UTC), pl.Datetime("us", "UTC")))
        .otherwise("open_time"),
    )
    built = merge(lake, rows)
    assert sorted(values(lake)) == [(0, "rest"), (5, "rest")]
    refused = lake.refused().sort("reason", "raw")
    assert refused["reason"].to_list() == [
        "CONFLICTING_KEY", "CONFLICTING_KEY", "OUTSIDE_PERIOD", "UNTYPED_CELL", "UNTYPED_CELL",
    ]  # fmt: skip
    assert refused["source_key"].unique().to_list() == ["rest/um/klines/BTCUSDT/1h"]
    assert refused["source_version"].unique().to_list() == [version(1)]
    assert sum(b.rows_refused for b in built) == 5
    assert lake.frame(QUARANTINE.name)["raw"].str.contains("open=").all()


def test_rows_of_two_series_of_one_kind_that_contradict_each_other_are_told(
    make_lake: MakeLake,
) -> None:
    lake = make_lake(KLINES, "um", "1h")
    rows = live_rows(KLINES, [(START_US, 7, version(1))], interval="1h")
    merge(lake, rows)
    (built,) = merge(lake, rows.with_columns(open=pl.lit(8.0), source_key=pl.lit("rest/another")))
    assert (built.rows_refused, values(lake)) == (1, {(0, "rest"): 7})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop("close"), "lack close"),
        (lambda f: f.with_columns(pl.col("close").cast(pl.String)), "close of klines is String"),
        (lambda f: f.with_columns(source=pl.lit("rumour")), "unknown source"),
        (lambda f: f.with_columns(symbol=pl.lit(None, pl.String)), "without symbol"),
        (lambda f: f.with_columns(interval=pl.lit("7m")), "unknown interval"),
        (lambda f: f.with_columns(market=pl.lit("moon")), "unknown market"),
    ],
)
def test_a_frame_that_is_none_of_the_data_set_is_a_mistake_of_the_caller(
    change: Callable[[pl.DataFrame], pl.DataFrame], said: str
) -> None:
    frame = live_rows(KLINES, [(START_US, 7, version(1))], interval="1h")
    with pytest.raises(InvalidError, match=said):
        list(cut_rows(KLINES, change(frame)))


def test_a_trade_is_one_row_though_one_source_tells_milliseconds_and_another_microseconds(
    make_lake: MakeLake,
) -> None:
    """Spot's files are in ms until 2024, its REST and streams may be in µs; a trade's id is one."""
    lake = make_lake(AGG_TRADES, "spot")
    fine = live_rows(
        AGG_TRADES, [(START_US + 250_600, 7, version(1))], source="stream", market="spot"
    )
    coarse = live_rows(AGG_TRADES, [(START_US + 250_000, 7, version(2))], market="spot")
    merge(lake, coarse)
    (built,) = merge(lake, fine)
    assert (built.rows, built.rows_known) == (0, 1), "REST's row is the better one"
    assert lake.frame()["source"].to_list() == ["rest"]
    other = make_lake(AGG_TRADES, "spot")
    merge(other, fine)
    (built,) = merge(other, coarse)
    assert (built.rows, built.rows_replaced) == (0, 1)
    assert other.frame()["source"].to_list() == ["rest"]
