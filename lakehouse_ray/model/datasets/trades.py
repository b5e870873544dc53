"""Single trades."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Cost, Dataset
from lakehouse_ray.model.table import Column

TRADES = Dataset(
    name="trades",
    view="trades",
    doc="Single trades.",
    columns=(
        Column(
            "id",
            "long",
            "The exchange's number of the trade; numbers can be missing",
            True,
            "delta",
        ),
        Column("price", "double", "Price", True, zstd_level=1),
        Column("qty", "double", "Quantity in the base asset; cm: in contracts", True, zstd_level=2),
        Column("quote_qty", "double", "Quantity in the quote asset; null on cm"),
        Column("base_qty", "double", "Quantity in the base asset; cm only"),
        Column("time", "timestamp", "When the trade happened", True, "delta"),
        Column("is_buyer_maker", "boolean", "The buyer's order was in the book", True),
        Column("is_best_match", "boolean", "Spot only"),
    ),
    key=("id",),
    time="time",
    archive={
        "spot": ("daily", "monthly"),
        "um": ("daily", "monthly"),
        "cm": ("daily", "monthly"),
    },
    bytes_a_row=60,
    streamed=True,
    cost=Cost(0.016, 6),
)
