"""Open interest and long/short ratios."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Cost, Dataset
from lakehouse_ray.model.table import Column
from lakehouse_ray.model.timespan import MINUTE_US

METRICS = Dataset(
    name="metrics",
    view="metrics",
    doc="Open interest and long/short ratios of a contract, about every five minutes.",
    columns=(
        Column(
            "create_time", "timestamp", "When it was taken; not always on the minute", True, "delta"
        ),
        Column("sum_open_interest", "double", "Open interest in contracts or base asset"),
        Column("sum_open_interest_value", "double", "Open interest in the quote asset"),
        Column(
            "count_toptrader_long_short_ratio", "double", "Top traders' accounts, long to short"
        ),
        Column("sum_toptrader_long_short_ratio", "double", "Top traders' positions, long to short"),
        Column("count_long_short_ratio", "double", "All accounts, long to short"),
        Column("sum_taker_long_short_vol_ratio", "double", "Taker volume, buys to sells"),
    ),
    key=("create_time",),
    time="create_time",
    archive={"um": ("daily",), "cm": ("daily",)},
    # Since 2024-03-04 the file of day D runs from 00:05 to 00:00 of D+1, that row included, also
    # where it was taken some seconds late (00:00:02).
    slack_us=MINUTE_US,
    bytes_a_row=150,
    cost=Cost(0.052, 4),
)
