"""Payments between longs and shorts of perpetual contracts."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Cost, Dataset
from lakehouse_ray.model.table import Column

FUNDING_RATES = Dataset(
    name="fundingRate",
    view="funding_rates",
    doc="Funding rates of perpetual contracts.",
    columns=(
        Column(
            "calc_time",
            "timestamp",
            "When it was calculated; up to some ms past the hour",
            True,
            "delta",
        ),
        Column("funding_interval_hours", "long", "Hours to the one before", True),
        Column("last_funding_rate", "double", "Rate, as a fraction of the position", True),
    ),
    key=("calc_time",),
    time="calc_time",
    archive={"um": ("monthly",), "cm": ("monthly",)},
    fine=False,
    bytes_a_row=30,
    cost=Cost(0.95, 23),
)
