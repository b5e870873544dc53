"""What the lake has, as the one document that the command and the service give."""

from __future__ import annotations

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.query.contents import Contents, Series, TableFact


def contents_document(found: Contents) -> dict[str, object]:
    """Data sets with what is stored of each, and tables with their snapshots."""
    return {
        "v": 1,
        "datasets": [
            {
                "dataset": dataset.name,
                "view": f"silver.{dataset.view}",
                "doc": dataset.doc,
                "archive": {market: list(freqs) for market, freqs in dataset.archive.items()},
                "tables": [table.name for table in dataset.tables],
                "stored": [_series(one) for one in found.series if one.dataset is dataset],
            }
            for dataset in DATASETS.values()
        ],
        "tables": [_table(fact) for fact in found.tables],
    }


def _series(one: Series) -> dict[str, object]:
    return {
        "market": one.market,
        "interval": one.interval,
        "symbols": one.symbols,
        "rows": one.rows,
        "first": format_time(one.first_us),
        "last": format_time(one.last_us),
        "files": one.files,
        "bytes": one.size_bytes,
    }


def _table(fact: TableFact) -> dict[str, object]:
    return {
        "table": fact.shape.name,
        "doc": fact.shape.doc,
        "rows": fact.rows,
        "files": fact.files,
        "bytes": fact.size_bytes,
        "snapshot_id": fact.snapshot_id,
        "snapshots": fact.snapshots,
        "latest": [
            {
                "id": snapshot.id,
                "committed_at": format_time(snapshot.committed_us),
                "operation": snapshot.operation,
                "rows": snapshot.rows,
            }
            for snapshot in fact.latest
        ],
    }
