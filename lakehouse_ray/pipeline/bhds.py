"""For those who come from BHDS: its folders written from the lake, and both sets of rules compared.

One symbol at a time: memory is that of its whole history at one interval. A symbol that fails does
not stop the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lakehouse_ray.errors import InvalidError, LakehouseError, NotFoundError
from lakehouse_ray.gold.bhds import check_known
from lakehouse_ray.gold.bhds_compare import compare_klines, compare_resampled
from lakehouse_ray.gold.bhds_export import export_klines, export_resampled
from lakehouse_ray.gold.klines import gold_klines
from lakehouse_ray.kernels.grid import offsets_by
from lakehouse_ray.kernels.resample import Resampling
from lakehouse_ray.model.venue import Market
from lakehouse_ray.query.asked import unknown_symbol
from lakehouse_ray.query.lake import Lake

# What BHDS resamples from.
SOURCE_INTERVAL = "1m"


@dataclass(frozen=True)
class BhdsRequest:
    """What to export or compare.

    symbols: Empty: all that have bars of the interval.
    target, step: Of resampled bars, such as 1h and 5m; empty: the bars themselves.
    """

    market: Market
    interval: str
    symbols: tuple[str, ...] = ()
    target: str = ""
    step: str = "0m"

    def __post_init__(self) -> None:
        if self.target and self.interval != SOURCE_INTERVAL:
            raise InvalidError(
                f"bars are resampled from {SOURCE_INTERVAL}, not from {self.interval}",
                f"leave --interval away, or say {SOURCE_INTERVAL}",
            )
        if self.target:
            # What no symbol can be resampled to is no fault of each.
            check_known(self.target)
            offsets = (0,) if self.step == "0m" else offsets_by(self.target, self.step)
            Resampling(SOURCE_INTERVAL, self.target, offsets)


@dataclass(frozen=True)
class Exported:
    """What came of one symbol. error: Why there are no files."""

    symbol: str
    files: tuple[Path, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Compared:
    """What came of one symbol. differences: As `gold.bhds_compare` has them. error: Why none."""

    symbol: str
    differences: pl.DataFrame
    error: str = ""


def export(lake: Lake, request: BhdsRequest, root: Path) -> Iterator[Exported]:
    """Write BHDS's folders below `root`, symbol by symbol. Safe to repeat and to interrupt.

    Raises NotFoundError where there are no bars.
    """
    for symbol in _symbols(lake, request):
        try:
            klines, funding = _read(lake, request, symbol)
            gold = gold_klines(
                klines, funding, market=request.market, symbol=symbol, interval=request.interval
            )
            if request.target:
                files = export_resampled(
                    root, gold, market=request.market, symbol=symbol, target=request.target,
                    step=request.step,
                )  # fmt: skip
            else:
                files = export_klines(
                    root, gold, market=request.market, symbol=symbol, interval=request.interval
                )
            yield Exported(symbol, tuple(files))
        except LakehouseError as error:
            yield Exported(symbol, error=str(error))


def compare(lake: Lake, request: BhdsRequest) -> Iterator[Compared]:
    """Run BHDS's rules beside ours over the same rows of silver, symbol by symbol.

    Raises NotFoundError where there are no bars.
    """
    for symbol in _symbols(lake, request):
        try:
            klines, funding = _read(lake, request, symbol)
            if request.target:
                found = compare_resampled(
                    klines, funding, market=request.market, symbol=symbol, target=request.target,
                    step=request.step,
                )  # fmt: skip
            else:
                found = compare_klines(
                    klines, funding, market=request.market, symbol=symbol,
                    interval=request.interval,
                )  # fmt: skip
            yield Compared(symbol, found)
        except LakehouseError as error:
            yield Compared(symbol, pl.DataFrame(), str(error))


def _symbols(lake: Lake, request: BhdsRequest) -> Sequence[str]:
    with lake.sql(
        'SELECT DISTINCT symbol FROM silver.klines WHERE market = ? AND "interval" = ? ORDER BY 1',
        [request.market, request.interval],
    ) as result:
        stored: list[str] = result.pl()["symbol"].to_list()
    what = f"{request.market} klines {request.interval}"
    if not stored:
        raise NotFoundError(f"no {what}", "`lakehouse datasets` lists what there is")
    for symbol in request.symbols:
        if symbol not in stored:
            raise unknown_symbol(symbol, stored, what)
    return request.symbols or stored


def _read(
    lake: Lake, request: BhdsRequest, symbol: str
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    klines = lake.klines(symbol, request.interval, market=request.market).collect()
    if request.market == "spot":
        return klines, None
    return klines, lake.rows("fundingRate", symbol, market=request.market).collect()
