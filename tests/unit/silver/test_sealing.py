"""Live rows held against the archive's, in memory and by the disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.live_rows import live_rows, version

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.live import LIVE_COMPARISON_LOG, LIVE_DIFFERENCE_LOG
from lakehouse_ray.model.timespan import HOUR_US, TimeRange, day_range
from lakehouse_ray.silver.resolve import key_of, with_day
from lakehouse_ray.silver.rows_work import build_rows, cut_rows
from lakehouse_ray.silver.sealing import Sealed
from lakehouse_ray.storage.committer import Committer

MakeLake = Callable[..., Any]
DAY = day_range(date(2024, 1, 31))
AGG_TRADES = DATASETS["aggTrades"]
LIQUIDATIONS = DATASETS["liquidationSnapshot"]


def csv(period: TimeRange, prices: dict[int, float]) -> bytes:
    def line(hour: int, price: float) -> str:
        us = period.start_us + hour * HOUR_US
        return f"{us // 1_000_000},{price},1,1,1,{us // 1000},true\n"

    header = (
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
    )
    return (header + "".join(line(*row) for row in prices.items())).encode()


def live(prices: dict[int, float]) -> pl.DataFrame:
    rows = [
        (DAY.start_us + hour * HOUR_US, price, version(hour // 2)) for hour, price in prices.items()
    ]
    return live_rows(AGG_TRADES, rows, source="stream").with_columns(
        quantity=pl.lit(1.0), first_trade_id=pl.lit(1, pl.Int64), last_trade_id=pl.lit(1, pl.Int64),
        is_buyer_maker=pl.lit(True), is_best_match=pl.lit(None, pl.Boolean),
    )  # fmt: skip


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
def test_each_value_that_differs_is_told_and_each_answer_is_counted(
    make_lake: MakeLake, large: bool
) -> None:
    lake = make_lake(AGG_TRADES, "um", csv_bytes_in_memory=0 if large else 1 << 30)
    for unit in cut_rows(AGG_TRADES, live({0: 10, 1: 11, 2: 12, 3: 16, 9: 19})):
        built = build_rows(lake.store, unit, (), run_id="live", now_us=lake.now_us)
        lake.committer.commit([built.silver])
    key = lake.publish("BTCUSDT", "daily", DAY, csv(DAY, {0: 10, 1: 12, 2: 12, 3: 20, 4: 5}))
    (built,) = lake.ingest()
    assert (built.live_rows, built.live_rows_different) == (4, 2)
    for table, request in built.sealed:
        Committer(lake.access, table, "run").commit([request])
    told = lake.frame(LIVE_DIFFERENCE_LOG.name).sort("time")
    assert told.select("symbol", "column", "live", "final", "difference", "relative").rows() == [
        ("BTCUSDT", "price", "11.0", "12.0", -1.0, pytest.approx(1 / 12)),
        ("BTCUSDT", "price", "16.0", "20.0", -4.0, pytest.approx(0.2)),
    ]
    seconds = [(DAY.start_us + hour * HOUR_US) // 1_000_000 for hour in (1, 3)]
    assert told["id"].to_list() == [f"agg_trade_id={second}" for second in seconds]
    assert told["final_key"].unique().to_list() == [key]
    groups = lake.frame(LIVE_COMPARISON_LOG.name).sort("source_version")
    assert groups.select("source", "source_version", "rows", "rows_different", "relative_max").rows() == [
        ("stream", version(0), 2, 1, pytest.approx(1 / 12)),
        ("stream", version(1), 2, 1, pytest.approx(0.2)),
    ]  # fmt: skip
    rows = lake.frame()
    assert rows.filter(source="stream")["price"].to_list() == [19.0], "the archive has no such row"


def test_rows_that_are_all_key_do_not_differ() -> None:
    rows = live_rows(LIQUIDATIONS, [(DAY.start_us, 1, version(0))])
    final = rows.with_columns(source=pl.lit("daily"))
    sealed = Sealed()
    sealed.compare(LIQUIDATIONS, "BTCUSDT", rows, final, key_of(LIQUIDATIONS))
    assert (sealed.rows, sealed.rows_different) == (1, 0)


def test_only_live_rows_are_compared_and_only_with_the_archives() -> None:
    rows = with_day(live({0: 1, 1: 2}), AGG_TRADES)
    sealed = Sealed()
    for a, b in (("daily", "daily"), ("rest", "stream"), ("monthly", "rest")):
        old, new = (rows.with_columns(source=pl.lit(source)) for source in (a, b))
        sealed.compare(AGG_TRADES, "BTCUSDT", old, new, key_of(AGG_TRADES))
    assert (sealed.rows, sealed.differences, sealed.comparisons) == (0, [], [])


def test_pieces_of_one_symbol_are_summed_up(make_lake: MakeLake) -> None:
    lake = make_lake(AGG_TRADES, "um")
    rows = with_day(live({0: 1, 1: 2}), AGG_TRADES)
    final = rows.with_columns(source=pl.lit("daily"), price=pl.lit(4.0))
    whole, pieces = Sealed(), Sealed()
    whole.compare(AGG_TRADES, "BTCUSDT", rows, final, key_of(AGG_TRADES))
    for piece in rows.iter_slices(1):
        pieces.compare(AGG_TRADES, "BTCUSDT", piece, final, key_of(AGG_TRADES))
    told = []
    for number, sealed in enumerate((whole, pieces)):
        made = sealed.requests(
            lake.store, AGG_TRADES, "um", None, f"{number}", run_id="r", now_us=lake.now_us
        )
        before = 0 if not number else told[0].height
        for table, request in made:
            Committer(lake.access, table, "run").commit([replace(request, id=f"{number}")])
        told.append(lake.frame(LIVE_COMPARISON_LOG.name))
        assert told[-1].height == before + 1
    first, second = told[1].iter_slices(1)
    assert_frame_equal(first, second)
