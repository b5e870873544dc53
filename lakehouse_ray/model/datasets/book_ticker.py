"""Best bid and ask."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Cost, Dataset
from lakehouse_ray.model.table import Column

BOOK_TICKER = Dataset(
    name="bookTicker",
    view="book_ticker",
    doc="Best bid and ask at each change. The exchange stopped publishing it in spring 2024.",
    columns=(
        Column("update_id", "long", "Number of the book's update", True, "delta"),
        Column("best_bid_price", "double", "Best bid", True),
        Column("best_bid_qty", "double", "Quantity at the best bid", True),
        Column("best_ask_price", "double", "Best ask", True),
        Column("best_ask_qty", "double", "Quantity at the best ask", True),
        Column("transaction_time", "timestamp", "When the book changed", True, "delta"),
        Column("event_time", "timestamp", "When the change was sent", False, "delta"),
    ),
    # Updates of one number at different times have been seen: both are kept.
    key=("transaction_time", "update_id"),
    time="transaction_time",
    archive={"um": ("daily", "monthly"), "cm": ("daily", "monthly")},
    bytes_a_row=85,
    streamed=True,
    cost=Cost(0.055, 12),
)
