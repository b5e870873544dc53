"""Tables of streams as they were at one moment, and streams over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.model.table import Table
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pins import FindTable, Pin
from lakehouse_ray.query.scan import Where, files_sql
from lakehouse_ray.query.versions import FixedTables, parse_versions, spell_versions
from lakehouse_ray.serve.binance.decimals import stored_decimals
from lakehouse_ray.serve.exchange_errors import BAD_SYMBOL
from lakehouse_ray.serve.service import Service
from lakehouse_ray.serve.streams.events import Series, series_of
from lakehouse_ray.serve.streams.names import KINDS, Stream
from lakehouse_ray.serve.streams.protocol import ProtocolError
from lakehouse_ray.serve.streams.reading import select
from lakehouse_ray.serve.work import StoppableEngine
from lakehouse_ray.storage.files import file_entry
from lakehouse_ray.storage.schemas import iceberg_schema

# Of a hot table: about as many as a capture writes in a minute.
_LATE_FILES = 64
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


def open_streams(
    service: Service,
    engine: StoppableEngine,
    find: FindTable,
    streams: Sequence[Stream],
    *,
    micro: bool,
) -> list[Series]:
    """Streams over their tables; raises ProtocolError where these have no row of a symbol."""
    lake = Lake(service.source.find, engine)
    pins: dict[str, Pin] = {}
    for table in {table.name: table for stream in streams for table in stream.tables}.values():
        found = find(table.name)
        pins[table.name] = Pin(table, found, snapshot_of(found))
    live = {
        name: _lately(engine, pin, streams[0].market) if pin.shape.live else frozenset()
        for name, pin in pins.items()
    }
    opened = []
    for stream in streams:
        decimals = stored_decimals(service, lake, stream.market, stream.symbol)
        series = series_of(stream, decimals, micro=micro)
        own = {table.name: pins[table.name] for table in stream.tables}
        known = any((stream.symbol, stream.interval) in live[name] for name in own)
        if not known and not _has_rows(engine, series, own):
            what = " ".join(filter(None, (stream.dataset.name, stream.interval)))
            raise ProtocolError(
                BAD_SYMBOL,
                f"Invalid symbol. The lake has no {what} of {stream.symbol} on {stream.market}.",
            )
        opened.append(series)
    return opened


def _lately(engine: StoppableEngine, pin: Pin, market: str) -> frozenset[tuple[str, str | None]]:
    """Symbols, with their intervals, of the last files of a hot table: of what is captured now."""
    files = engine.plan(pin, Where({"market": market}))
    schema = iceberg_schema(pin.shape)
    files.sort(key=lambda file: file_entry(pin.shape, schema, file).region.time_max_us)
    names = "symbol, interval" if "interval" in pin.shape.names else "symbol"
    query = f"SELECT DISTINCT {names} FROM ({files_sql(pin.shape, files[-_LATE_FILES:])})"
    with engine.run(query, [], {}) as result:
        return frozenset((row["symbol"], row.get("interval")) for row in result.rows())


def _has_rows(engine: StoppableEngine, series: Series, pins: Mapping[str, Pin]) -> bool:
    """Whether a stream has a row; the main tables are asked first, since live rows lie in many files."""
    for name in sorted(pins, key=lambda name: pins[name].shape.live):
        pin, where = pins[name], Where(series.stream.equal)
        if pin.shape.live:
            files = engine.plan(pin, where)
            rows = f"SELECT 1 FROM ({files_sql(pin.shape, files)}) WHERE {where.sql(pin.shape)} LIMIT 1"
            with engine.run(rows, [], {}) as result:
                if result.rows():
                    return True
        else:
            with select(engine, series, {name: pin}, where, 1) as found:
                if any(batch.num_rows for batch in found.fetch_batches()):
                    return True
    return False
