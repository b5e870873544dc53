"""Forced orders."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Cost, Dataset
from lakehouse_ray.model.table import Column

_COLUMNS = (
    Column("time", "timestamp", "When the order was forced", True, "delta"),
    Column("side", "string", "BUY or SELL", True, "dictionary"),
    Column("order_type", "string", "Such as LIMIT", True, "dictionary"),
    Column("time_in_force", "string", "Such as IOC", True, "dictionary"),
    Column("original_quantity", "double", "Quantity asked", True),
    Column("price", "double", "Price asked", True),
    Column("average_price", "double", "Price got", True),
    Column("order_status", "string", "Such as FILLED", True, "dictionary"),
    Column("last_fill_quantity", "double", "Quantity of the last fill", True),
    Column("accumulated_fill_quantity", "double", "Quantity filled in all", True),
)

LIQUIDATION_SNAPSHOT = Dataset(
    name="liquidationSnapshot",
    view="liquidation_snapshot",
    doc="Forced orders, at most one a second and symbol. The exchange stopped publishing it in 2024.",
    columns=_COLUMNS,
    # There is no id, and some files hold every row twice: rows alike in all columns are one.
    key=tuple(column.name for column in _COLUMNS),
    time="time",
    archive={"um": ("daily",), "cm": ("daily",)},
    fine=False,
    bytes_a_row=90,
    streamed=True,
    cost=Cost(0.09, 11),
)
