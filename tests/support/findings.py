"""What a lake's views say of quality, and when two lakes say the same."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

import lakehouse_ray as lh

VIEWS = (
    "gold.assessments", "gold.quality", "gold.anomalies", "gold.cross_checks", "gold.alerts",
    "silver.gaps",
)  # fmt: skip
# Differ between any two runs.
RUN_COLUMNS = (
    "run_id",
    "number",
    "fingerprint",
    "assessed_at",
    "scored_at",
    "found_at",
    "raised_at",
)


def findings(home: Path) -> dict[str, pl.DataFrame]:
    """All rows of each view, in an order of their own."""
    lake = lh.connect(home)
    return {view: lake.sql(f"select * from {view} order by all").pl() for view in VIEWS}


def assert_same_findings(found: Path, wanted: Path) -> None:
    """Hold what one lake shows to what another does, row for row, whichever runs found it."""
    ours, theirs = findings(found), findings(wanted)
    for view in VIEWS:
        left, right = (
            frame[view].drop(RUN_COLUMNS, strict=False).sort(pl.all()) for frame in (ours, theirs)
        )
        assert left.height == right.height > 0 or view in ("gold.cross_checks", "gold.anomalies")
        assert_frame_equal(left, right, check_exact=True)


def runs_shown(home: Path) -> pl.DataFrame:
    """Series and runs of which any view shows something: each series once, if all is well."""
    log = lh.connect(home).sql(
        """
        select distinct market, dataset, symbol, "interval", run_id from (
            select market, dataset, symbol, "interval", run_id from gold.quality
            union all select market, dataset, symbol, "interval", run_id from gold.anomalies
            union all select market, dataset, symbol, "interval", run_id from gold.assessments
        )
        """
    )
    return log.pl()
