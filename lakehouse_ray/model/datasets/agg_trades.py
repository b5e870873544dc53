"""Trades of one taker order at one price, joined."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Cost, Dataset
from lakehouse_ray.model.table import Column

AGG_TRADES = Dataset(
    name="aggTrades",
    view="agg_trades",
    doc="Trades that one taker order made at one price, joined.",
    columns=(
        Column("agg_trade_id", "long", "The exchange's number of the joined trade", True, "delta"),
        Column("price", "double", "Price", True, zstd_level=1),
        Column(
            "quantity", "double", "Quantity in the base asset; cm: in contracts", True, zstd_level=2
        ),
        Column("first_trade_id", "long", "First trade in it", True, "delta"),
        Column("last_trade_id", "long", "Last trade in it", True, "delta"),
        Column("transact_time", "timestamp", "When it happened", True, "delta"),
        Column("is_buyer_maker", "boolean", "The buyer's order was in the book", True),
        Column("is_best_match", "boolean", "Spot only"),
    ),
    key=("agg_trade_id",),
    time="transact_time",
    archive={
        "spot": ("daily", "monthly"),
        "um": ("daily", "monthly"),
        "cm": ("daily", "monthly"),
    },
    bytes_a_row=65,
    streamed=True,
    cost=Cost(0.021, 6),
)
