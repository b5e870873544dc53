"""What says how good the data is: a score per symbol and day, and what looks wrong.

These are the shapes of two views; `model.assessment` has the logs behind them.
"""

from __future__ import annotations

from lakehouse_ray.model.table import Column, Encoding, Partition, Table

_DICT: Encoding = "dictionary"
_OF = (
    Column("market", "string", "spot, um or cm", True, _DICT),
    Column("dataset", "string", "As the archive spells it", True, _DICT),
    Column("symbol", "string", "The exchange's own spelling", True, _DICT),
    Column("interval", "string", "Of bars; empty for other data sets", True, _DICT),
)

QUALITY = Table(
    name="gold.quality",
    doc="How good a symbol's day is, from 0 to 1, and why it is not 1. Formula: docs/quality.md.",
    columns=(
        *_OF,
        Column("day", "timestamp", "Start of the UTC day", True, "delta"),
        Column("score", "double", "0 to 1; null: nothing could be expected and nothing is there"),
        Column("completeness", "double", "1 less the rows missing, weighted by cause"),
        Column("validity", "double", "1 less the share of rows flagged (half) and quarantined"),
        Column("consistency", "double", "1 less the share of compared rows that differ"),
        Column("timeliness", "double", "1 if published within two days, 0 after a month"),
        Column("normality", "double", "1 less the weight of anomalies"),
        Column("rows_expected", "long", "By the rhythm; null: it has none", False, "delta"),
        Column("rows", "long", "Rows there", True, "delta"),
        Column(
            "rows_missing",
            "long",
            "Rows missing that could be expected, of whatever cause",
            True,
            "delta",
        ),
        Column("rows_flagged", "long", "Rows marked by a rule that costs", True, "delta"),
        Column("rows_quarantined", "long", "Rows refused", True, "delta"),
        Column(
            "compared", "long", "Rows held against other accounts, once for each", False, "delta"
        ),
        Column("differing", "long", "Those of them that differ", True, "delta"),
        Column("delay_hours", "double", "From the end of the file's period to its publication"),
        Column(
            "anomalies",
            "long",
            "Bars in `gold.anomalies`, but for cross_interval: such bars are `differing`",
            False,
            "delta",
        ),
        Column("codes", "string", "Names of the losses by commas, the largest first", False, _DICT),
        Column("reasons", "string", "The same as sentences, by semicolons"),
        Column("run_id", "string", "Run that scored it", True, _DICT),
        Column("scored_at", "timestamp", "When", True, "delta"),
    ),
    key=("market", "dataset", "symbol", "interval", "day"),
    time="day",
    partitions=(
        Partition("identity", "market"),
        Partition("identity", "dataset"),
        Partition("year", "day"),
    ),
    sort=("symbol", "interval", "day"),
)

ANOMALIES = Table(
    name="gold.anomalies",
    doc="Bars that look wrong, by method, with score and reason. Methods: docs/anomalies.md.",
    columns=(
        *_OF,
        Column("time", "timestamp", "Opening of the bar", True, "delta"),
        Column("method", "string", "Such as hampel or stale_price", True, _DICT),
        Column("score", "double", "How far beyond the method's limit; 1 is at it", True),
        Column("value", "double", "What is there"),
        Column("expected", "double", "What the method expected"),
        Column("reason", "string", "A sentence with the numbers", True),
        Column("run_id", "string", "Run that found it", True, _DICT),
        Column("found_at", "timestamp", "When", True, "delta"),
    ),
    key=("market", "dataset", "symbol", "interval", "time", "method"),
    time="time",
    partitions=(
        Partition("identity", "market"),
        Partition("identity", "dataset"),
        Partition("year", "time"),
    ),
    sort=("symbol", "interval", "time", "method"),
)
