"""Gaps of streams that a step recorded: what a capture did not get of the rows that are followed."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from lakehouse_ray.model.datasets.book_levels import BOOK_LEVELS
from lakehouse_ray.query.conversions import frame_of
from lakehouse_ray.query.live_events import GAP
from lakehouse_ray.query.scan import files_sql, quoted, text
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.query.step_rows import CAUSE, EVENT, Wanted
from lakehouse_ray.query.steps import Step

# What the log calls the changes that books are made of.
_CHANGES = "depth"


def step_gaps(engine: Engine, step: Step, wanted: Wanted) -> Iterator[pl.DataFrame]:
    """The gaps that a step of the log added, in the order of time: EVENT, CAUSE, the log's columns."""
    table = step.moved
    gone, new = step.files(engine)
    if not new:
        return
    names = [wanted.dataset.name, *([_CHANGES] if wanted.dataset is BOOK_LEVELS else [])]
    where = [
        f"market = {text(wanted.market)}",
        f"dataset IN ({', '.join(map(text, names))})",
        f'"interval" = {text(wanted.interval or "")}',
    ]
    if wanted.symbols is not None:
        where.append(f"symbol IN ({', '.join(map(text, sorted(wanted.symbols)))})")
    engine.verify([*gone, *new])
    # Files that were written together anew say the same again.
    query = (
        f"SELECT '{GAP}' AS {EVENT}, NULL::VARCHAR AS {CAUSE}, * FROM "
        f"(({files_sql(table, new)}) EXCEPT ({files_sql(table, gone)})) "
        f"WHERE {' AND '.join(where)} "
        f"ORDER BY start_time, {', '.join(map(quoted, table.names))}"
    )
    with engine.run(query, [], {}) as result:
        for batch in result.fetch_batches():
            if batch.num_rows:
                yield frame_of(batch)
