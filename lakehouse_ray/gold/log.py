"""What each unit was built from: a log that is appended to after its rows are visible.

A run that dies in between leaves units that look as if they were not built. The next one builds
them again, to the same rows. Which build of a unit is the last is decided by the snapshot of the
product that has its rows, not by a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
from pyiceberg.expressions import EqualTo

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.gold.build import UnitResult
from lakehouse_ray.gold.plan import Logged
from lakehouse_ray.model.lake import BUILD_LOG
from lakehouse_ray.model.product import Product, ProductUnit
from lakehouse_ray.model.venue import MARKETS
from lakehouse_ray.storage.catalog import TableCatalog
from lakehouse_ray.storage.frames import frame_schema

_UNIT = ("market", "interval", "symbol", "period")


def read_builds(catalog: TableCatalog, product: Product) -> dict[ProductUnit, Logged]:
    """Return the last build of each unit of a product."""
    table = catalog.find(BUILD_LOG.name)
    if table is None:
        return {}
    columns = (
        *_UNIT, "fingerprint", "content", "rows_read", "rows", "output_sequence", "built_at",
    )  # fmt: skip
    try:
        arrow = table.scan(
            row_filter=EqualTo(term="product", value=product.name), selected_fields=columns
        ).to_arrow()
    except OSError as error:
        raise UnavailableError(f"the log of builds could not be read: {error}") from error
    frame = pl.from_arrow(arrow)
    assert isinstance(frame, pl.DataFrame)
    last = (
        frame.sort("output_sequence", "built_at").unique(_UNIT, keep="last").drop("built_at")
    ).iter_rows()
    markets = {name: name for name in MARKETS}
    return {
        ProductUnit(markets[market], interval, symbol, period): Logged(*rest)
        for market, interval, symbol, period, *rest in last
    }


def builds(
    product: Product,
    sequences: Sequence[tuple[UnitResult, int]],
    *,
    run_id: str,
    now_us: int,
) -> Mapping[str, pl.DataFrame]:
    """Return rows of the log by market. sequences: Units, and snapshots that have their rows."""
    schema = frame_schema(BUILD_LOG)
    rows = [
        (
            product.name, result.item.unit.market, result.item.unit.interval,
            result.item.unit.symbol, result.item.unit.period, product.version,
            result.item.fingerprint, result.content, result.item.rows_read, result.rows,
            sequence, run_id, now_us,
        )
        for result, sequence in sequences
    ]  # fmt: skip
    plain = {name: pl.Int64() if kind.is_temporal() else kind for name, kind in schema.items()}
    frame = pl.DataFrame(rows, schema=plain, orient="row").cast(schema)
    return {
        str(market): part for (market,), part in frame.partition_by("market", as_dict=True).items()
    }
