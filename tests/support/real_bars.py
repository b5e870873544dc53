"""Real bars of the exchange, read without this package."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import polars as pl

DATA = Path(__file__).parents[2].parent / "shared/data"
_COLUMNS = ["open_time", "open", "high", "low", "close", "volume"]

# Liquid and illiquid, dear and cheap, with holes and without.
SERIES = {
    "um BTCUSDT 1m": "archive/data/futures/um/daily/klines/BTCUSDT/1m",
    "um CLUSDT 1m": "archive/data/futures/um/daily/klines/CLUSDT/1m",
    "um KITEUSDT 1m": "archive/data/futures/um/daily/klines/KITEUSDT/1m",
    "um ALGOUSDT 1m": "archive/data/futures/um/monthly/klines/ALGOUSDT/1m",
    "spot BTCUSDT 15m": "archive/data/spot/daily/klines/BTCUSDT/15m",
    "spot ETHUSDT 1d": "archive/data/spot/daily/klines/ETHUSDT/1d",
    "spot BTCUSDT 1h": "recorded/csv/spot_klines_1h_year/BTCUSDT-1h-*.csv",
    "spot BTCUSDC 5m": "recorded/csv/spot_klines_5m",
    "spot ADABTC 1m": "recorded/csv/spot_klines_1m_truncated",
}


@cache
def real_bars(name: str) -> pl.DataFrame:
    """All bars of a series that are on this machine, in the order of time."""
    path = DATA / SERIES[name]
    files = sorted(path.parent.glob(path.name) if path.suffix else path.iterdir())
    frames = [_read(file) for file in files if file.suffix in (".zip", ".csv")]
    return pl.concat(frames).unique("open_time", keep="last").sort("open_time")


def _read(file: Path) -> pl.DataFrame:
    content = file.read_bytes()
    if file.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            content = zipped.read(zipped.namelist()[0])
    header = not content[:1].isdigit()
    rows = pl.read_csv(content, has_header=False, skip_rows=int(header), columns=list(range(6)))
    rows.columns = _COLUMNS
    # Milliseconds have 13 digits, microseconds 16.
    time = pl.col("open_time") * pl.when(pl.col("open_time") < 10**15).then(1000).otherwise(1)
    return rows.with_columns(
        time.cast(pl.Datetime("us", "UTC")), pl.col(_COLUMNS[1:]).cast(pl.Float64)
    )
