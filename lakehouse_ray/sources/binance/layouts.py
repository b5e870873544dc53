"""How Binance writes the columns of each data set, with and without a header row.

Column orders: the archive's README, the files themselves, and for types without a sample several
independent descriptions that agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.venue import Market

CellType = Literal["epoch", "text_time", "long", "double", "boolean", "string", "symbol", "ignored"]


@dataclass(frozen=True)
class Cell:
    """One CSV column.

    name: In the header row.
    column: Of the data set; empty for cells that are only checked or not read.
    type: `epoch` is ms or µs since 1970; `text_time` is `2024-01-05 00:05:00`, UTC.
    optional: An empty cell is null, not a defect.
    """

    name: str
    column: str
    type: CellType
    optional: bool = False


Layout = tuple[Cell, ...]


def _double(name: str, optional: bool = False) -> Cell:
    return Cell(name, name, "double", optional)


_BARS: Layout = (
    Cell("open_time", "open_time", "epoch"),
    _double("open"),
    _double("high"),
    _double("low"),
    _double("close"),
    _double("volume"),
    Cell("close_time", "close_time", "epoch"),
    _double("quote_volume"),
    Cell("count", "trades", "long"),
    _double("taker_buy_volume"),
    _double("taker_buy_quote_volume"),
    Cell("ignore", "", "ignored"),
)
_BEST_MATCH = Cell("is_best_match", "is_best_match", "boolean")
_AGG_TRADES: Layout = (
    Cell("agg_trade_id", "agg_trade_id", "long"),
    _double("price"),
    _double("quantity"),
    Cell("first_trade_id", "first_trade_id", "long"),
    Cell("last_trade_id", "last_trade_id", "long"),
    Cell("transact_time", "transact_time", "epoch"),
    Cell("is_buyer_maker", "is_buyer_maker", "boolean"),
)


def _trades(amount: str) -> Layout:
    return (
        Cell("id", "id", "long"),
        _double("price"),
        _double("qty"),
        _double(amount),
        Cell("time", "time", "epoch"),
        Cell("is_buyer_maker", "is_buyer_maker", "boolean"),
    )


_FUNDING: Layout = (
    Cell("calc_time", "calc_time", "epoch"),
    Cell("funding_interval_hours", "funding_interval_hours", "long"),
    _double("last_funding_rate"),
)
_METRICS: Layout = (
    Cell("create_time", "create_time", "text_time"),
    Cell("symbol", "", "symbol"),
    *(
        _double(name, optional=True)
        for name in (
            "sum_open_interest",
            "sum_open_interest_value",
            "count_toptrader_long_short_ratio",
            "sum_toptrader_long_short_ratio",
            "count_long_short_ratio",
            "sum_taker_long_short_vol_ratio",
        )
    ),
)
_BOOK_TICKER: Layout = (
    Cell("update_id", "update_id", "long"),
    _double("best_bid_price"),
    _double("best_bid_qty"),
    _double("best_ask_price"),
    _double("best_ask_qty"),
    Cell("transaction_time", "transaction_time", "epoch"),
    Cell("event_time", "event_time", "epoch", optional=True),
)
_BOOK_DEPTH: Layout = (
    Cell("timestamp", "timestamp", "text_time"),
    _double("percentage"),
    _double("depth"),
    _double("notional"),
)
_LIQUIDATIONS: Layout = (
    Cell("time", "time", "epoch"),
    Cell("side", "side", "string"),
    Cell("order_type", "order_type", "string"),
    Cell("time_in_force", "time_in_force", "string"),
    _double("original_quantity"),
    _double("price"),
    _double("average_price"),
    Cell("order_status", "order_status", "string"),
    _double("last_fill_quantity"),
    _double("accumulated_fill_quantity"),
)

_LAYOUTS: Mapping[tuple[str, str], Layout] = {
    **{(name, m): _BARS for name in ("klines",) for m in ("spot", "um", "cm")},
    **{
        (name, m): _BARS
        for name in ("markPriceKlines", "indexPriceKlines", "premiumIndexKlines")
        for m in ("um", "cm")
    },
    ("aggTrades", "spot"): (*_AGG_TRADES, _BEST_MATCH),
    ("aggTrades", "um"): _AGG_TRADES,
    ("aggTrades", "cm"): _AGG_TRADES,
    ("trades", "spot"): (*_trades("quote_qty"), _BEST_MATCH),
    ("trades", "um"): _trades("quote_qty"),
    ("trades", "cm"): _trades("base_qty"),
    **{
        (name, m): layout
        for m in ("um", "cm")
        for name, layout in (
            ("fundingRate", _FUNDING),
            ("metrics", _METRICS),
            ("bookTicker", _BOOK_TICKER),
            ("bookDepth", _BOOK_DEPTH),
            ("liquidationSnapshot", _LIQUIDATIONS),
        )
    },
}


def layout_of(dataset: Dataset, market: Market, first_line: str) -> tuple[Layout, bool]:
    """Return the cells of a file in its own order, and whether its first line is a header.

    The first line decides: files of one type have headers only since some day, and old files were
    never written again. A header is matched by name, a file without one by its count of cells.

    Raises BadDataError (UNKNOWN_COLUMNS) where names or count are not those of the data set.
    """
    expected = _LAYOUTS[dataset.name, market]
    cells = cells_of(first_line)
    if is_header(cells):
        by_name = {cell.name: cell for cell in expected}
        unknown = [name for name in cells if name not in by_name]
        missing = [name for name in by_name if name not in cells and name != "ignore"]
        if unknown or missing or len(set(cells)) < len(cells):
            raise BadDataError(
                "UNKNOWN_COLUMNS",
                f"header {','.join(cells)[:300]!r}: unknown {unknown}, missing {missing}",
            )
        return tuple(by_name[name] for name in cells), True
    if len(cells) != len(expected):
        # A first line may be a damaged row; the file has the right columns if others do. That is
        # for the caller to find out: here only the one line is known.
        raise BadDataError(
            "UNKNOWN_COLUMNS",
            f"{len(cells)} cells without a header, not {len(expected)}: {first_line[:200]!r}",
        )
    return expected, False


def is_header(cells: Sequence[str]) -> bool:
    """A header is words; a damaged first row may begin with one, and has numbers beside it."""
    first = cells[0]
    words = bool(first) and (first[0].isalpha() or first[0] == "_")
    return words and not any(cell[:1].isdigit() for cell in cells)


def cells_of(line: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.lstrip("\ufeff").split(",")]
