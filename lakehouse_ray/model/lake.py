"""The tables the lake keeps about itself: what it has of each object, and what it refused."""

from __future__ import annotations

from lakehouse_ray.model.table import Column, Encoding, Partition, Table

_DICT: Encoding = "dictionary"

OBJECT_LOG = Table(
    name="bronze.object_log",
    doc="What happened to each version of each object, one row per event. `bronze.objects` is its "
    "latest state per version.",
    columns=(
        Column("market", "string", "spot, um or cm", True, _DICT),
        Column("dataset", "string", "As the archive spells it", True, _DICT),
        Column("symbol", "string", "The exchange's own spelling", True, _DICT),
        Column("interval", "string", "Of bars", False, _DICT),
        Column(
            "freq",
            "string",
            "daily or monthly; rest: an answer of REST; stream: frames",
            True,
            _DICT,
        ),
        Column(
            "period_start",
            "timestamp",
            "Start of the day or month of the file; of an answer, when it was received",
            True,
            "delta",
        ),
        Column("key", "string", "The object's key in the archive", True),
        Column("url", "string", "Where it was read", True),
        Column("etag", "string", "As listed"),
        Column("checksum_etag", "string", "Of the CHECKSUM beside it, as listed"),
        Column("last_modified", "timestamp", "As listed", True, "delta"),
        Column("size", "long", "Bytes of the object", True, "delta"),
        Column("published_sha256", "string", "What the CHECKSUM file says"),
        Column("sha256", "string", "Computed from the bytes received"),
        Column("version", "string", "Last-modified and the start of the sha256; orders versions"),
        Column("path", "string", "Where bronze keeps the bytes, relative to the lake's root"),
        Column(
            "state",
            "string",
            "built (its rows are in silver) or quarantined; received: an answer in bronze, its rows "
            "on their way; or frames of streams, whose rows have their version",
            True,
            _DICT,
        ),
        Column("reason", "string", "Why it was quarantined", False, _DICT),
        Column("detail", "string", "The same in words"),
        Column(
            "days_short", "string", "Days of a monthly file that it does not fully cover, by commas"
        ),
        Column("rows", "long", "Rows read from it", False, "delta"),
        Column("rows_quarantined", "long", "Rows of it that were refused", False, "delta"),
        Column("decoder_version", "int", "Rules by which it was read", True, "delta"),
        Column("unit_id", "string", "Unit of work that read it", True, _DICT),
        Column("run_id", "string", "Run that did", True, _DICT),
        Column("seen_at", "timestamp", "When the run saw it listed", True, "delta"),
        Column("fetched", "boolean", "Bytes were transferred for this event", True),
    ),
    key=(),
    time="seen_at",
    partitions=(Partition("identity", "market"), Partition("identity", "dataset")),
    sort=("symbol", "period_start"),
)

QUARANTINE = Table(
    name="silver.quarantine_log",
    doc="Rows and objects that were refused, and why. `silver.quarantine` has each once.",
    columns=(
        Column("market", "string", "spot, um or cm", True, _DICT),
        Column("dataset", "string", "As the archive spells it", True, _DICT),
        Column("symbol", "string", "The exchange's own spelling", True, _DICT),
        Column("interval", "string", "Of bars", False, _DICT),
        Column("source", "string", "daily, monthly, rest or stream", True, _DICT),
        Column("source_key", "string", "The object's key in the archive", True, _DICT),
        Column("source_version", "string", "`bronze.objects.version`", False, _DICT),
        Column(
            "line", "long", "Line of the file, from 1; null: the object as a whole", False, "delta"
        ),
        Column("reason", "string", "Stable code, such as CHECKSUM_MISMATCH", True, _DICT),
        Column("detail", "string", "The same in words"),
        Column("raw", "string", "The line as it was, cut after 1,000 characters"),
        Column("run_id", "string", "Run that refused it", True, _DICT),
        Column("quarantined_at", "timestamp", "When", True, "delta"),
    ),
    key=(),
    time="quarantined_at",
    partitions=(Partition("identity", "market"), Partition("identity", "dataset")),
    sort=("symbol", "source_key"),
)

BUILD_LOG = Table(
    name="gold.build_log",
    doc="What each unit of each product was built from, one row per build. `gold.builds` has the "
    "latest of each unit.",
    columns=(
        Column("product", "string", "Name of the product", True, _DICT),
        Column("market", "string", "spot, um or cm", True, _DICT),
        Column("interval", "string", "Of bars; empty: a product without intervals", True, _DICT),
        Column("symbol", "string", "The exchange's own spelling; *: the whole market", True, _DICT),
        Column("period", "string", "A month (2024-05), a year (2024) or all", True, _DICT),
        Column("version", "int", "Of the product", True, "delta"),
        Column("fingerprint", "string", "Names the parts of files that it was built from", True),
        Column("content", "string", "Names the rows that it was built from", True),
        Column("rows_read", "long", "Rows in these parts of files", True, "delta"),
        Column("rows", "long", "Rows of the product", True, "delta"),
        Column(
            "output_sequence",
            "long",
            "Number of the product's snapshot that has them, or that had them before",
            True,
            "delta",
        ),
        Column("run_id", "string", "Run that built it", True, _DICT),
        Column("built_at", "timestamp", "When", True, "delta"),
    ),
    key=(),
    time="built_at",
    partitions=(Partition("identity", "product"), Partition("identity", "market")),
    sort=("symbol", "interval", "period"),
)
