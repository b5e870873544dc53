"""Quality in numbers for a monitor: per market, data set and interval, never per symbol."""

from __future__ import annotations

from collections.abc import Iterator

from lakehouse_ray.model.gaps import CAUSES
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.telemetry.metrics import (
    ALERTS_DELIVERED,
    ALERTS_RAISED,
    ASSESSED_AT,
    ASSESSMENTS,
    MISSING,
    QUALITY_ROWS,
    ROWS_ASSESSED,
    SCORE_MEAN,
    SCORE_MIN,
    SCORES,
    SCORES_UNDER,
    SERIES_KNOWN,
    MetricShape,
    Samples,
)

_OF = 'market, dataset, "interval"'


def quality_metrics(lake: Lake, threshold: float) -> Iterator[tuple[MetricShape, Samples]]:
    """Count what the tables of assessments have; nothing is kept but sums by kind.

    Counters are numbers of rows of logs, which only grow: a process may end between two of them.
    """
    yield from _columns(
        lake,
        "gold.alerts",
        "SELECT market, dataset, rule, coalesce(split_part(codes, ',', 1), ''), count(*) "
        "FROM gold.alerts GROUP BY ALL",
        ALERTS_RAISED,
    )
    yield from _columns(
        lake,
        "gold.alert_deliveries",
        "SELECT market, dataset, count(*) FROM gold.alert_deliveries GROUP BY ALL",
        ALERTS_DELIVERED,
    )
    yield from _columns(
        lake,
        "gold.assessment_log",
        f"SELECT {_OF}, count(*), sum(rows), count(DISTINCT symbol), epoch(max(assessed_at)) "
        "FROM gold.assessment_log GROUP BY ALL",
        *(ASSESSMENTS, ROWS_ASSESSED, SERIES_KNOWN, ASSESSED_AT),
    )
    yield from _columns(
        lake,
        "gold.quality",
        f"SELECT {_OF}, min(score), avg(score), count(score), "
        f"count(*) FILTER (score < {threshold!r}) FROM gold.quality GROUP BY ALL",
        *(SCORE_MIN, SCORE_MEAN, SCORES, SCORES_UNDER),
    )
    yield from _columns(
        lake,
        "gold.assessments",
        f"SELECT {_OF}, sum(rows) FROM gold.assessments GROUP BY ALL",
        QUALITY_ROWS,
    )
    # A cause that is gone must be seen to be nought, not to be absent.
    causes = ", ".join(f"sum(missing) FILTER (cause = '{cause}')" for cause in CAUSES)
    missing: dict[tuple[str, ...], float] = {}
    query = f"SELECT {_OF}, {causes} FROM silver.gaps GROUP BY ALL"
    for row in _rows(lake, "silver.gaps", query):
        for cause, number in zip(CAUSES, row[3:], strict=True):
            missing[*map(str, row[:3]), cause] = float(str(number or 0))
    for row in _rows(lake, "gold.assessments", f"SELECT DISTINCT {_OF} FROM gold.assessments"):
        for cause in CAUSES:
            missing.setdefault((*map(str, row), cause), 0.0)
    yield MISSING, missing


def _columns(
    lake: Lake, view: str, query: str, *shapes: MetricShape
) -> Iterator[tuple[MetricShape, Samples]]:
    """Labels first, then a column per shape."""
    rows = _rows(lake, view, query)
    labels = len(shapes[0].labels)
    for number, shape in enumerate(shapes, start=labels):
        yield (
            shape,
            {
                tuple(map(str, row[:labels])): float(str(row[number]))
                for row in rows
                if row[number] is not None
            },
        )


def _rows(lake: Lake, view: str, query: str) -> list[tuple[object, ...]]:
    with lake.ask(query, [VIEWS[view]]) as result:
        return result.pl().rows()
