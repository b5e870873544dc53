"""Depth of the book at distances from the price."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Cost, Dataset
from lakehouse_ray.model.table import Column

BOOK_DEPTH = Dataset(
    name="bookDepth",
    view="book_depth",
    doc="Depth of the book within so many percent of the price, about every 30 seconds.",
    columns=(
        Column("timestamp", "timestamp", "When it was taken", True, "delta"),
        Column("percentage", "double", "Distance from the price; bids are negative", True),
        Column("depth", "double", "Quantity within that distance", True),
        Column("notional", "double", "The same in the quote asset", True),
    ),
    key=("timestamp", "percentage"),
    time="timestamp",
    archive={"um": ("daily",), "cm": ("daily",)},
    bytes_a_row=60,
    cost=Cost(0.03, 8),
)
