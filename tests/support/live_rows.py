"""Rows of REST and of streams, as the sources hand them over."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.silver.given_rows import rows_schema

TIME = pl.Datetime("us", "UTC")


def version(second: int, text: str = "0" * 16) -> str:
    """As `bronze.objects.version` spells it, for an answer received so many seconds into a day."""
    return f"2024-06-01T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z {text}"


def live_rows(
    dataset: Dataset,
    rows: Iterable[tuple[int, float, str]],
    *,
    source: str = "rest",
    market: str = "um",
    symbol: str = "BTCUSDT",
    interval: str | None = None,
) -> pl.DataFrame:
    """Rows from (time in µs, value, source_version): the value stands in every number of the row.

    In data sets that go by ids, the id is the time in seconds.
    """
    rows = list(rows)
    parts = [source, market, dataset.name, symbol, *([interval] if interval else [])]
    named = {"market": market, "symbol": symbol, "interval": interval, "source": source,
             "source_key": "/".join(parts)}  # fmt: skip
    data: dict[str, list[object]] = {}
    for name, kind in rows_schema(dataset).items():
        if name in named:
            data[name] = [named[name]] * len(rows)
        elif name == "source_version":
            data[name] = [row[2] for row in rows]
        elif name == "close_time" and interval is not None:
            data[name] = [row[0] + STEPS_US[interval] - 1000 for row in rows]
        elif kind == TIME:
            data[name] = [row[0] for row in rows]
        elif name in dataset.key:
            data[name] = [row[0] // 1_000_000 for row in rows]
        elif kind == pl.Boolean():
            data[name] = [row[1] > 1 for row in rows]
        elif kind == pl.String():
            data[name] = [str(row[1]) for row in rows]
        else:
            data[name] = [row[1] for row in rows]
    plain = {n: pl.Int64() if k == TIME else k for n, k in rows_schema(dataset).items()}
    return pl.DataFrame(data, schema=plain, strict=False).cast(rows_schema(dataset))


STEPS_US = {"1m": 60_000_000, "1h": 3_600_000_000, "1d": 86_400_000_000}
