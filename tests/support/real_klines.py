"""Bars of the real files, read by Polars' own CSV reader: no code of this package."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import polars as pl

SHARED = Path(__file__).parents[2].parent / "shared/data"
SPOT_DAILY = SHARED / "archive/data/spot/daily/klines"
SPOT_MONTHLY = SHARED / "archive/data/spot/monthly/klines"
UM_DAILY = SHARED / "archive/data/futures/um/daily/klines"
UM_MONTHLY = SHARED / "archive/data/futures/um/monthly/klines"
CSV = SHARED / "recorded/csv"

TIME = pl.Datetime("us", "UTC")
COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
_TIMES = ("open_time", "close_time")


def bars_of_csv(path: Path) -> pl.DataFrame:
    """One CSV, as rows of `silver.klines` without names and sources."""
    return _typed([path.read_bytes()])


def bars_of_zips(folder: Path, pattern: str = "*.zip") -> pl.DataFrame:
    """All zips of a folder."""
    texts = []
    for path in sorted(folder.glob(pattern)):
        with zipfile.ZipFile(path) as archive:
            texts.append(archive.read(archive.namelist()[0]))
    return _typed(texts)


def bars_of_rest(path: Path) -> pl.DataFrame:
    """A recorded answer of the exchange's klines route."""
    lines = "\n".join(",".join(map(str, row)) for row in json.loads(path.read_text()))
    return _typed([lines.encode()])


def funding_of_zips(folder: Path) -> pl.DataFrame:
    """Monthly funding files, as rows of `silver.funding_rates` without names and sources."""
    frames = []
    for path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            frames.append(pl.read_csv(archive.read(archive.namelist()[0])))
    return pl.concat(frames).with_columns(pl.from_epoch("calc_time", "ms").cast(TIME))


def _typed(texts: list[bytes]) -> pl.DataFrame:
    frames = [
        pl.read_csv(
            io.BytesIO(text), has_header=False, new_columns=COLUMNS, infer_schema=False,
            skip_rows=0 if text[:1].isdigit() else 1,
        )
        for text in texts
    ]  # fmt: skip
    # Microseconds from 2025 on, on spot; milliseconds otherwise.
    times = [
        pl.when(pl.col(name).str.len_chars() > 13).then(number).otherwise(number * 1000).alias(name)
        for name in _TIMES
        for number in (pl.col(name).cast(pl.Int64),)
    ]
    numbers = pl.exclude(*_TIMES, "trades", "ignore").cast(pl.Float64)
    bars = pl.concat(frames).with_columns(*times, numbers, pl.col("trades").cast(pl.Int64))
    bars = bars.with_columns(pl.col(_TIMES).cast(TIME)).drop("ignore")
    return bars.unique("open_time", keep="first", maintain_order=True).sort("open_time")
