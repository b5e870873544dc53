"""What the latest assessments say of some series and days."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from lakehouse_ray.kernels.recommend import GAPS_SCHEMA, recommend
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.scan import quoted, text, timestamp
from lakehouse_ray.query.views import VIEWS

_OF = ("market", "dataset", "symbol", "interval")


@dataclass(frozen=True)
class Verdict:
    """series: Mean and least score, days, and days under the threshold, of each, the worst first.

    poor: Days under the threshold, the worst first. advice: `kernels.recommend`.
    """

    series: pl.DataFrame
    poor: pl.DataFrame
    advice: pl.DataFrame


def judge(lake: Lake, asked: Asked, threshold: float) -> Verdict:
    """Sum up what was assessed. Memory: days with a loss, some 500 bytes each."""
    days = _condition(asked, "day")
    names = ", ".join(map(quoted, _OF))
    series = _ask(
        lake,
        f"SELECT {names}, count(score) AS days, avg(score) AS mean, min(score) AS least, "
        f"count(*) FILTER (score < {threshold!r}) AS poor FROM gold.quality WHERE {days} "
        f"GROUP BY {names} ORDER BY mean, {names}",
        "gold.quality",
    )
    lossy = _ask(
        lake,
        f"SELECT * FROM gold.quality WHERE {days} AND codes IS NOT NULL ORDER BY score, {names}, day",
        "gold.quality",
    )
    gaps = _ask(
        lake,
        f'SELECT {names}, start_time AS start, end_time AS "end", missing, cause '
        f"FROM silver.gaps WHERE {_condition(asked, 'start_time')}",
        "silver.gaps",
    )
    listed = lossy.with_columns(pl.col("codes").str.split(","), pl.col("reasons").str.split("; "))
    advice = recommend(listed, gaps.cast(GAPS_SCHEMA), threshold=threshold)
    return Verdict(series, lossy.filter(pl.col("score") < threshold), advice)


def _ask(lake: Lake, query: str, view: str) -> pl.DataFrame:
    with lake.ask(query, [VIEWS[view]]) as result:
        return result.pl()


def _condition(asked: Asked, time: str) -> str:
    parts = ["true"]
    if asked.market:
        parts.append(f"market = {text(asked.market)}")
    if asked.dataset:
        parts.append(f"dataset = {text(asked.dataset.name)}")
    if asked.interval:
        parts.append(f'"interval" = {text(asked.interval)}')
    if asked.symbols:
        parts.append(f"symbol IN ({', '.join(map(text, asked.symbols))})")
    if asked.start_us is not None:
        parts.append(f"{time} >= {timestamp(asked.start_us)}")
    if asked.end_us is not None:
        parts.append(f"{time} < {timestamp(asked.end_us)}")
    return " AND ".join(parts)
