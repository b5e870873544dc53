"""What is worth telling somebody of: thresholds of a day, and the log of what was told.

`model.assessment` has the log of what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lakehouse_ray.model.table import Column, Encoding, Partition, Table

# What can be wrong with a day, in the order in which it is told.
Rule = Literal["score", "own_loss", "differing", "anomalies"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Thresholds:
    """Beyond these a symbol's day is an alert, together with those beside it.

    score: The least that is none, 0 to 1.
    own_loss_rows_max: Rows that the source has and the lake does not.
    differing_share_max: Of the rows compared with another account, 0 to 1.
    anomalies_max: Findings in `gold.anomalies`.
    """

    score: float = 0.9
    own_loss_rows_max: int = 0
    differing_share_max: float = 0.05
    anomalies_max: int = 100


_DICT: Encoding = "dictionary"

# What an alert is: of a series' days in a row, by a rule, for the same reasons. `interval` and `codes`
# may be without a value (empty, null).
ALERT_KEY = ("market", "dataset", "symbol", "interval", "day", "last_day", "rule", "codes")

ALERT_DELIVERIES = Table(
    name="gold.alert_deliveries",
    doc="Alerts that the webhook's receiver has taken, one row per alert and delivery. What is in "
    "`gold.alerts` and not here is sent by the next run.",
    columns=(
        Column("market", "string", "spot, um or cm", True, _DICT),
        Column("dataset", "string", "As the archive spells it", True, _DICT),
        Column("symbol", "string", "The exchange's own spelling", True, _DICT),
        Column("interval", "string", "Of bars; empty for other data sets", True, _DICT),
        Column("day", "timestamp", "As in `gold.alerts`", True, "delta"),
        Column("rule", "string", "Likewise", True, _DICT),
        Column("codes", "string", "Likewise", False, _DICT),
        Column("document_id", "string", "Of what was sent: its `webhook-id`", True, _DICT),
        Column("listed", "boolean", "Listed in the document; else only in its totals", True),
        Column("attempts", "int", "Times the document was sent until it was taken", True, "delta"),
        Column("run_id", "string", "Run that sent it", True, _DICT),
        Column("delivered_at", "timestamp", "When", True, "delta"),
        Column("last_day", "timestamp", "As in `gold.alerts`; null: the day alone", False, "delta"),
    ),
    key=(),
    time="delivered_at",
    partitions=(Partition("identity", "market"), Partition("identity", "dataset")),
    sort=("symbol", "interval", "day"),
)
