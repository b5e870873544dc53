"""Rows of a fill's answers, before they are merged."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.timespan import DAY_US, MINUTE_US, TimeRange, parse_time
from lakehouse_ray.pipeline.realtime_commits import framed
from lakehouse_ray.silver.rows_work import rows_schema
from lakehouse_ray.sources.rest import Rows

START_US = parse_time("2025-03-01")


def answers(dataset: str, *pages: list[tuple[int, float]]) -> Rows:
    """Pages of (time in µs, value): the value stands in every number that is not the key."""
    known = DATASETS[dataset]
    schema = {n: k for n, k in rows_schema(known).items() if n in {c.name for c in known.columns}}
    frames = []
    for page in pages:
        rows = pl.DataFrame({"us": [us for us, _ in page], "value": [value for _, value in page]})
        frames.append(
            rows.select(
                (
                    pl.col("us")
                    if name == known.time
                    else pl.lit(7)
                    if name in known.key
                    else pl.lit(False)
                    if kind == pl.Boolean()
                    else pl.col("value")
                )
                .cast(kind)
                .alias(name)
                for name, kind in schema.items()
            )
        )
    return Rows(frames)


def test_of_a_bar_that_came_twice_and_was_corrected_between_the_later_one_counts() -> None:
    bars = [(START_US + n * MINUTE_US, 1.0) for n in range(3)]
    corrected = [bars[0], (bars[1][0], 2.0)]
    fill = Fill("spot", "klines", "BTCUSDT", "1m", TimeRange(START_US, START_US + DAY_US), START_US)
    frame = framed(fill, DATASETS["klines"], answers("klines", bars, corrected), "v")
    assert sorted(frame.select(pl.col("open_time").dt.epoch("us"), "close").rows()) == [
        bars[0], (bars[1][0], 2.0), bars[2],
    ]  # fmt: skip


def test_one_id_on_two_days_is_two_trades() -> None:
    fill = Fill(
        "um", "aggTrades", "BTCUSDT", None, TimeRange(START_US, START_US + 2 * DAY_US), START_US
    )
    rows = answers("aggTrades", [(START_US, 1.0), (START_US + DAY_US, 1.0)])
    assert framed(fill, DATASETS["aggTrades"], rows, "v").height == 2
