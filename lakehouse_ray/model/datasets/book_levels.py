"""The top of the book, level by level."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.table import Column

BOOK_LEVELS = Dataset(
    name="bookLevels",
    view="book_levels",
    doc="The best levels of the book, kept from a snapshot and all changes since, about once a second "
    "where it changes. Of streams alone: the archive has none.",
    columns=(
        Column("event_time", "timestamp", "Of the latest change in it", True, "delta"),
        Column("update_id", "long", "Number of that change", True, "delta"),
        Column("level", "int", "From 1, the best", True, "delta"),
        Column("bid_price", "double", "Null: there are fewer bids"),
        Column("bid_qty", "double", "Quantity there"),
        Column("ask_price", "double", "Null: there are fewer asks"),
        Column("ask_qty", "double", "Quantity there"),
    ),
    key=("event_time", "update_id", "level"),
    time="event_time",
    archive={},
    streamed=True,
    bytes_a_row=60,
)
