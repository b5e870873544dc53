"""Tables of streams as they were at one moment, and streams over them."""

from __future__ import annotations

from collections.abc import Mapping

from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.model.table import Table
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pins import FindTable, Pin
from lakehouse_ray.query.scan import Where
from lakehouse_ray.query.versions import FixedTables, parse_versions, spell_versions
from lakehouse_ray.serve.binance.decimals import stored_decimals
from lakehouse_ray.serve.exchange_errors import BAD_SYMBOL
from lakehouse_ray.serve.service import Service
from lakehouse_ray.serve.streams.events import Series, series_of
from lakehouse_ray.serve.streams.names import KINDS, Stream
from lakehouse_ray.serve.streams.protocol import ProtocolError
from lakehouse_ray.serve.streams.reading import select
from lakehouse_ray.serve.work import StoppableEngine

# All that a stream can be of.
TABLES: tuple[Table, ...] = tuple(
    {table.name: table for dataset in KINDS.values() for table in dataset.stored_tables}.values()
)


def snapshot_of(table: IcebergTable | None) -> int | None:
    snapshot = table.current_snapshot() if table is not None else None
    return snapshot.snapshot_id if snapshot is not None else None


def pinned_tables(
    find: FindTable, versions: Mapping[str, int | None], as_of: str | None
) -> dict[str, IcebergTable | None]:
    """All tables at once: at these versions, the others as of a moment.

    Tables that exact versions in `as_of` say nothing of are left out.

    Raises ExpiredError for a version that is not kept any more.
    """
    given = [table for table in TABLES if table.name in versions]
    others = [table for table in TABLES if table.name not in versions]
    exact = parse_versions(as_of) if as_of is not None else None
    if exact is not None:
        # Without a hot table's name they mean none of its rows.
        others = [table for table in others if table.name in exact or table.live]
        as_of = spell_versions({table.name: exact.get(table.name) for table in others})
    spelled = spell_versions({table.name: versions[table.name] for table in given})
    found: dict[str, IcebergTable | None] = {}
    for shapes, moment in ((given, spelled), (others, as_of)):
        if shapes:
            fixed = FixedTables(find, shapes, moment)
            found.update((shape.name, fixed.find(shape.name)) for shape in shapes)
    return found


def open_stream(
    service: Service, engine: StoppableEngine, find: FindTable, stream: Stream, *, micro: bool
) -> Series:
    """A stream over a table; raises ProtocolError where it has no row of the symbol."""
    lake = Lake(service.source.find, engine)
    decimals = stored_decimals(service, lake, stream.market, stream.symbol)
    series = series_of(stream, decimals, micro=micro)
    found_tables = [(table, find(table.name)) for table in stream.tables]
    pins = {table.name: Pin(table, found, snapshot_of(found)) for table, found in found_tables}
    with select(engine, series, pins, Where(stream.equal), 1) as found:
        if any(batch.num_rows for batch in found.fetch_batches()):
            return series
    what = " ".join(filter(None, (stream.dataset.name, stream.interval)))
    raise ProtocolError(
        BAD_SYMBOL, f"Invalid symbol. The lake has no {what} of {stream.symbol} on {stream.market}."
    )
