"""The price by which positions are valued, as it is sent every few seconds."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.table import Column

MARK_PRICES = Dataset(
    name="markPrice",
    view="mark_prices",
    doc="Mark price, index and funding rate to come, every second or three. Of streams alone: the "
    "archive has bars of them.",
    columns=(
        Column("event_time", "timestamp", "When it was sent", True, "delta"),
        Column("mark_price", "double", "Mark price", True),
        Column("index_price", "double", "Index of spot prices"),
        Column("estimated_settle_price", "double", "In the last hour before settlement"),
        Column("funding_rate", "double", "As it would be paid now; null: the contract pays none"),
        Column("next_funding_time", "timestamp", "When it will be paid", False, "delta"),
    ),
    key=("event_time",),
    time="event_time",
    archive={},
    streamed=True,
    bytes_a_row=80,
)
