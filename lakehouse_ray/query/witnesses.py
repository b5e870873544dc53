"""What each version of each file said of a moment, and which of them gave silver its row."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lakehouse_ray.errors import BadDataError, LakehouseError
from lakehouse_ray.model.dataset import PRECEDENCE
from lakehouse_ray.model.timespan import TimeRange, format_time, to_us
from lakehouse_ray.model.venue import FREQS
from lakehouse_ray.query.pinned import Among, Kind, Pinned
from lakehouse_ray.query.scan import Where, text, timestamp
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.sources.source import CsvFile, FindLines, ObjectDecoder
from lakehouse_ray.storage.objects import ObjectStore, explain

_TOLD = (
    "key", "freq", "url", "version", "state", "reason", "detail", "current", "etag", "sha256",
    "published_sha256", "size", "last_modified", "first_seen", "last_seen", "path", "rows",
    "rows_quarantined", "decoder_version",
)  # fmt: skip
_VALUES_SHOWN_MAX = 5


@dataclass(frozen=True)
class Source:
    """Where a row says that it is from.

    key: Of REST and streams that of the series: the object is told by the version.
    kind: daily, monthly, rest or stream.
    """

    key: str
    version: str
    kind: str

    def came_by(self, one: Mapping[str, Any]) -> bool:
        """Whether a version of an object is what the row came with."""
        named = one["key"] == self.key or self.kind not in FREQS
        return named and (one["version"], one["freq"]) == (self.version, self.kind)


@dataclass(frozen=True)
class Bytes:
    """Where the files are kept as they came, and what reads them.

    size_max: Files with more bytes are not read again; None: all are.
    """

    store: ObjectStore
    decoder: ObjectDecoder
    find_lines: FindLines
    size_max: int | None = None


def witnesses(
    pinned: Pinned,
    kind: Kind,
    symbol: str,
    span: TimeRange,
    winner: Source | None,
    files: Bytes | None,
) -> list[dict[str, Any]]:
    """Every version of every file of the series whose period holds the moment, the one that gave
    the row first; each with its lines of that time and why it won or lost.

    span: The times of the row. winner: What the row names as its source.
    files: None: say nothing of what is inside of them.
    """
    objects = _objects(pinned, kind, symbol, span) + _received(pinned, kind, winner)
    refusals = _refusals(pinned, kind, symbol, [row["key"] for row in objects])
    built = _latest_built(objects)
    told = []
    for row in objects:
        one = {name: _plain(row[name]) for name in _TOLD}
        of_archive = row["freq"] in FREQS
        if files is not None and of_archive and row["path"] and _small(row["size"], files):
            one |= _inside(kind, symbol, span, row, files, refusals)
        one["verdict"] = _verdict(one, winner, built)
        told.append(one)
    return sorted(told, key=lambda one: one["verdict"] != "gave the row")


def _small(size_bytes: int | None, files: Bytes) -> bool:
    return files.size_max is None or (size_bytes is not None and size_bytes <= files.size_max)


def _objects(pinned: Pinned, kind: Kind, symbol: str, span: TimeRange) -> list[dict[str, Any]]:
    where = Among(kind.equal | {"dataset": kind.dataset.name, "symbol": symbol})
    view = VIEWS["bronze.objects"]
    query = (
        "SELECT *, period_start + CASE freq WHEN 'monthly' THEN INTERVAL 1 MONTH "
        f"ELSE INTERVAL 1 DAY END AS period_end FROM {view.name} "
        f"WHERE {where.sql(view.tables[0])} AND freq IN ({', '.join(map(text, FREQS))}) "
        f"AND period_start <= {timestamp(span.start_us)} AND "
        f"period_end + to_microseconds({kind.dataset.slack_us}) > {timestamp(span.start_us)} "
        "ORDER BY freq, key, version DESC"
    )
    return list(pinned.frame(query, view, where).iter_rows(named=True))


def _received(pinned: Pinned, kind: Kind, winner: Source | None) -> list[dict[str, Any]]:
    """The answer or the frames that a row of REST or of a stream came with."""
    if winner is None or winner.kind in FREQS:
        return []
    where = Where({"market": kind.market, "version": winner.version, "freq": winner.kind})
    view = VIEWS["bronze.objects"]
    query = f"SELECT * FROM {view.name} WHERE {where.sql(view.tables[0])} ORDER BY key"
    # Files are told apart by the market alone.
    return list(pinned.frame(query, view, Where({"market": kind.market})).iter_rows(named=True))


def _refusals(
    pinned: Pinned, kind: Kind, symbol: str, keys: Sequence[str]
) -> Mapping[tuple[str, str | None, int | None], str]:
    """Why a line of a version of a file was refused; without a line, the file."""
    if not keys:
        return {}
    where = Among(kind.equal | {"dataset": kind.dataset.name, "symbol": symbol})
    view = VIEWS["silver.quarantine"]
    rows = pinned.frame(
        f"SELECT source_key, source_version, line, reason, detail FROM {view.name} "
        f"WHERE {where.sql(view.tables[0])} AND source_key IN ({', '.join(map(text, keys))})",
        view,
        where,
    )
    return {
        (key, version, line): f"{reason}: {detail}"
        for key, version, line, reason, detail in rows.iter_rows()
    }


def _latest_built(objects: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The version of each key whose rows are in silver."""
    found: dict[str, str] = {}
    for row in objects:
        if row["state"] == "built":
            found[row["key"]] = max(found.get(row["key"], ""), row["version"])
    return found


def _inside(
    kind: Kind,
    symbol: str,
    span: TimeRange,
    row: Mapping[str, Any],
    files: Bytes,
    refusals: Mapping[tuple[str, str | None, int | None], str],
) -> dict[str, Any]:
    """The lines of a file that are of the moment, as they stand there and as they are read."""
    market: Any = kind.market
    try:
        with tempfile.TemporaryDirectory(prefix="lakehouse-") as folder:
            copy = Path(folder) / "object.zip"
            if _copy(files.store, row["path"], copy) != row["sha256"]:
                return {"unreadable": f"{row['path']} is not what it was"}
            found = files.find_lines(kind.dataset, market, row["key"], copy, span)
        if not found.lines:
            return {"lines": []}
        period = TimeRange(to_us(row["period_start"]), to_us(row["period_end"]))
        body = "\n".join([found.header, *(raw for _, raw in found.lines)]).lstrip("\n") + "\n"
        one = CsvFile(row["key"], symbol, period, body.encode())
        decoded = files.decoder.decode(kind.dataset, market, [one])
    except BadDataError as error:
        return {"unreadable": str(error)}
    except LakehouseError as error:
        return {"unreadable": f"bronze has lost it: {error}"}
    values = pl.concat([part.frame for part in decoded]).head(_VALUES_SHOWN_MAX)
    return {
        "lines": [
            {
                "line": line,
                "raw": raw,
                "refused": refusals.get((row["key"], row["version"], line)),
            }
            for line, raw in found.lines
        ],
        "values": [
            {name: _plain(value) for name, value in one.items()}
            for one in values.iter_rows(named=True)
        ],
    }


def _copy(store: ObjectStore, path: str, target: Path) -> str:
    """Copy an object to a local file; return its sha256."""
    digest = hashlib.sha256()
    try:
        with (
            target.open("wb") as made,
            store.filesystem.open_input_stream(store.locate(path)) as stream,
        ):
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                made.write(chunk)
    except OSError as error:
        raise explain(error, f"copying {path}") from error
    return digest.hexdigest()


def _verdict(one: Mapping[str, Any], winner: Source | None, built: Mapping[str, str]) -> str:
    key, version = one["key"], one["version"]
    if winner is not None and winner.came_by(one):
        return "gave the row"
    if one["state"] == "quarantined":
        return "refused as a whole"
    if winner is not None and key == winner.key and version > winner.version:
        return "a later version of the same file"
    if version < built.get(key, ""):
        return "replaced by a later version of the same file"
    if one.get("unreadable"):
        return "cannot be read again"
    lines = one.get("lines")
    if lines is not None and not lines:
        return "has no row of this time"
    if lines and all(line["refused"] for line in lines):
        return "its row was refused"
    if winner is None:
        return "has rows of this time that silver has not"
    if PRECEDENCE[one["freq"]] > PRECEDENCE[winner.kind]:
        return f"lost: {winner.kind} files win over {one['freq']} ones"
    return "lost: of two files of one kind the later one wins"


def _plain(value: Any) -> Any:
    return format_time(to_us(value)) if hasattr(value, "tzinfo") else value
