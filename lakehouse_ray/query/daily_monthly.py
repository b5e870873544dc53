"""Daily files held against monthly ones of the same days, both read from bronze once more.

Silver has one row per key, the daily file's; what the monthly one says is in bronze alone. Where the
ledger knows no day of which both are built, a group of symbols costs one question to it.

Memory: a monthly file of up to `CSV_BYTES_MAX` inflated, with its rows, and a day of the daily one;
of a larger one a piece, and the rows of one day of both: it is cut into days on the local disk.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lakehouse_ray.errors import BadDataError, NotFoundError
from lakehouse_ray.kernels.crosscheck import RESULT
from lakehouse_ray.kernels.crosscheck_files import daily_against_monthly
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import DAY_US, TimeRange, to_us
from lakehouse_ray.model.venue import Freq, parse_market
from lakehouse_ray.query.cross_checks import COMPARED, added_up
from lakehouse_ray.query.pinned import Among, Kind, Pinned
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.sources.source import CsvFile, Decoded, ObjectDecoder
from lakehouse_ray.storage.objects import ObjectStore, explain

# Inflated.
CSV_BYTES_MAX = 64 << 20
# Lines told of one symbol's day, and of all symbols asked about at once (some 100 MB); of the rest
# one line a day says how many there are.
LINES_A_DAY_MAX, LINES_MAX = 1_000, 500_000

_TIME = pl.Datetime("us", "UTC")
_DAY = "_day"


@dataclass(frozen=True)
class Bronze:
    """Where files are kept as they came, and what reads them.

    csv_bytes_max: Larger files are read in pieces of a quarter of that.
    """

    store: ObjectStore
    decoder: ObjectDecoder
    csv_bytes_max: int = CSV_BYTES_MAX

    def has_room(self, zip_bytes: int) -> bool:
        """Zips of this archive inflate 4 to 6 times; what inflates more is found by looking."""
        return 4 * zip_bytes <= self.csv_bytes_max


@dataclass(frozen=True)
class _File:
    """A version of a file whose rows were taken into silver."""

    freq: Freq
    symbol: str
    period: TimeRange
    key: str
    path: str
    sha256: str
    version: str
    size: int

    @property
    def date(self) -> str:
        """When it was published."""
        return self.version[: len("2024-05-20")]


class _UnreadableError(Exception):
    """Bronze has not got the bytes that silver was made from."""


def hold_files(
    pinned: Pinned, kind: Kind, symbols: tuple[str, ...], bronze: Bronze
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return values that differ (`kernels.crosscheck.RESULT`) and rows compared (`COMPARED`).

    A row that one of two files of a day lacks differs. A file that has no row of the day at all, or
    that bronze has lost, gives no account of it: that is one line, and nothing is compared.
    Raises UnavailableError where bronze cannot be reached.
    """
    found, compared = [RESULT.to_frame()], [COMPARED.to_frame()]
    room = LINES_MAX
    if set(kind.dataset.archive.get(parse_market(kind.market), ())) >= {"daily", "monthly"}:
        for monthly, days in _pairs(pinned, kind, symbols):
            lines, counts = _hold_month(kind, bronze, monthly, days, room)
            found.append(lines)
            compared.append(counts)
            room -= lines.height
    return pl.concat(found), added_up(compared)


def _pairs(
    pinned: Pinned, kind: Kind, symbols: tuple[str, ...]
) -> Iterator[tuple[_File, list[_File]]]:
    """Monthly files, each with the daily ones of its month; of each its last version in silver."""
    where = Among(kind.equal | {"dataset": kind.dataset.name}, None, symbols)
    query = f"""
    WITH files AS (
        SELECT freq, symbol, key, path, sha256, version, size, period_start,
               period_start + CASE freq WHEN 'monthly' THEN INTERVAL 1 MONTH ELSE INTERVAL 1 DAY END
               AS period_end
        FROM bronze.objects
        WHERE {where.sql(VIEWS["bronze.objects"].tables[0])} AND state = 'built'
              AND freq IN ('daily', 'monthly') AND path IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY key ORDER BY last_seen DESC, version DESC) = 1
    ), months AS (
        SELECT m.symbol, m.period_start, m.period_end FROM files m JOIN files d
        ON d.symbol = m.symbol AND d.freq = 'daily' AND m.freq = 'monthly'
           AND d.period_start >= m.period_start AND d.period_start < m.period_end
        GROUP BY ALL
    )
    SELECT f.*, m.period_start AS month FROM files f JOIN months m
    ON f.symbol = m.symbol AND f.period_start >= m.period_start
       AND f.period_start < m.period_end
    ORDER BY f.symbol, month, f.freq DESC, f.period_start
    """
    rows = pinned.frame(query, VIEWS["bronze.objects"], where)
    for part in rows.partition_by("symbol", "month", maintain_order=True):
        files = [_file(row) for row in part.iter_rows(named=True)]
        yield files[0], files[1:]


def _file(row: dict[str, object]) -> _File:
    period = TimeRange(to_us(row["period_start"]), to_us(row["period_end"]))  # type: ignore[arg-type]
    names = ("freq", "symbol", "key", "path", "sha256", "version", "size")
    return _File(period=period, **{name: row[name] for name in names})  # type: ignore[arg-type]


def _hold_month(
    kind: Kind, bronze: Bronze, monthly: _File, days: Sequence[_File], room: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    found, compared = [RESULT.to_frame()], [COMPARED.to_frame()]
    with tempfile.TemporaryDirectory(prefix="lakehouse-") as folder:
        work = _Work(kind, bronze, Path(folder))
        try:
            month = _Days.of(work, monthly, [day.period for day in days])
        except _UnreadableError as error:
            reason = f"the monthly file cannot be read again: {error}"
            return _line(kind, monthly, "missing_right", reason), COMPARED.to_frame()
        for daily in days:
            lines, counts = _hold_day(work, monthly, month, daily)
            lines = _told(kind, daily, lines, max(0, min(room, LINES_A_DAY_MAX)))
            found.append(lines)
            compared.append(counts)
            room -= lines.height
    return pl.concat(found), pl.concat(compared)


def _hold_day(
    work: _Work, monthly: _File, month: _Days, daily: _File
) -> tuple[pl.DataFrame, pl.DataFrame]:
    kind, nothing = work.kind, COMPARED.to_frame()
    theirs = month.rows(daily.period)
    try:
        day = _Days.of(work, daily, [daily.period])
    except _UnreadableError as error:
        reason = f"the daily file cannot be read again: {error}"
        return _line(kind, daily, "missing_left", reason), nothing
    ours = day.rows(daily.period)
    if ours.is_empty() and theirs.is_empty():
        return RESULT.to_frame(), nothing
    for frame, other, which, file, verdict in (
        (theirs, ours, month, monthly, "missing_right"),
        (ours, theirs, day, daily, "missing_left"),
    ):
        if frame.is_empty():
            reason = f"{_lacks(file, which)}: none of {other.height} of this day is there"
            return _line(kind, daily, verdict, reason), nothing
    found = daily_against_monthly(
        ours,
        theirs,
        kind.market,
        kind.dataset.time,
        number=_number(kind.dataset),
        span=daily.period,
    ).with_columns(
        reason=pl.col("verdict").replace_strict(
            {
                "differs": f"the daily file is of {daily.date}, the monthly one of {monthly.date}",
                "missing_left": _lacks(daily, day),
                "missing_right": _lacks(monthly, month),
            },
            return_dtype=pl.String,
        )
    )
    rows = found.select("time", "id").unique().height
    alone = found.filter(verdict="missing_left").height
    counts = pl.DataFrame(
        [(daily.symbol, daily.period.start_us, ours.height + alone, rows)],
        schema=pl.Schema({**COMPARED, "day": pl.Int64()}),
        orient="row",
    ).cast(COMPARED)
    return found.sort("time", "id", "column"), counts


def _told(kind: Kind, daily: _File, lines: pl.DataFrame, room: int) -> pl.DataFrame:
    """As many lines of a day as there is room for, and one that says how many more there are."""
    if lines.height <= max(room, 1):
        return lines
    more = f"{lines.height - room} more values of this day differ, or lack in one of the files"
    return pl.concat([lines.head(room), _line(kind, daily, "differs", more)])


def _lacks(file: _File, read: _Days) -> str:
    refused = f", which had {read.refused} rows refused" if read.refused else ""
    return f"not in the {file.freq} file of {file.date}{refused}"


def _number(dataset: Dataset) -> str | None:
    """The column that numbers rows; None where a row is told by its time."""
    return next((name for name in dataset.key if name != dataset.time), None)


def _line(kind: Kind, file: _File, verdict: str, reason: str) -> pl.DataFrame:
    """That a file gives no account of its period."""
    values = {
        "market": kind.market,
        "check": "daily_monthly",
        "symbol": file.symbol,
        "interval": kind.interval or "",
        "time": file.period.start_us,
        "column": "*",
        "tolerance": 0.0,
        "verdict": verdict,
        "reason": reason,
    }
    made = pl.DataFrame({name: [values.get(name)] for name in RESULT.names()})
    return made.with_columns(pl.col("time").cast(_TIME)).cast(RESULT)


@dataclass(frozen=True)
class _Work:
    """folder: For what has no room in memory."""

    kind: Kind
    bronze: Bronze
    folder: Path

    def read(self, file: _File) -> Iterator[Decoded]:
        """The rows of a file. Raises _UnreadableError."""
        try:
            whole = self.bronze.has_room(file.size)
            yield from self._whole(file) if whole else self._pieces(file)
        except (NotFoundError, BadDataError) as error:
            raise _UnreadableError(str(error)) from error

    def _whole(self, file: _File) -> Iterator[Decoded]:
        decoder, kind = self.bronze.decoder, self.kind
        data = self.bronze.store.get(file.path)
        _check(file, hashlib.sha256(data).hexdigest())
        csv = decoder.unpack(file.key, data, self.bronze.csv_bytes_max)
        if csv is None:
            yield from self._pieces(file)
            return
        one = CsvFile(file.key, file.symbol, file.period, csv)
        yield from decoder.decode(kind.dataset, kind.market, [one])  # type: ignore[arg-type]

    def _pieces(self, file: _File) -> Iterator[Decoded]:
        store, kind = self.bronze.store, self.kind
        target, digest = self.folder / "object.zip", hashlib.sha256()
        try:
            with (
                target.open("wb") as made,
                store.filesystem.open_input_stream(store.locate(file.path)) as stream,
            ):
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    made.write(chunk)
        except OSError as error:
            raise explain(error, f"copying {file.path}") from error
        _check(file, digest.hexdigest())
        yield from self.bronze.decoder.decode_pieces(
            kind.dataset, kind.market, file.key, file.symbol, file.period, target,  # type: ignore[arg-type]
            self.bronze.csv_bytes_max // 4,
        )  # fmt: skip


def _check(file: _File, sha256: str) -> None:
    if sha256 != file.sha256:
        raise BadDataError("CHECKSUM_MISMATCH", f"{file.path} is not what it was")


class _Days:
    """Rows of a file by UTC day: in memory where it was read in one go, else on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[int, pl.DataFrame] = {}
        self._files: dict[int, list[Path]] = {}
        self.refused = 0

    @classmethod
    def of(cls, work: _Work, file: _File, days: Sequence[TimeRange]) -> _Days:
        """Read what a file has of some days."""
        made = cls(work.folder)
        wanted = pl.Series([day.start_us for day in days], dtype=pl.Int64)
        identity = {"symbol": file.symbol} | (
            {"interval": work.kind.interval} if work.kind.interval else {}
        )
        held: pl.DataFrame | None = None
        day = pl.col(work.kind.dataset.time).dt.epoch("us") // DAY_US * DAY_US
        for part in work.read(file):
            if held is not None:
                made._spill(held, file.freq)
            made.refused += sum(len(bad) for bad in part.bad)
            held = (
                part.frame.with_columns(day.alias(_DAY))
                .filter(pl.col(_DAY).is_in(wanted.implode()))
                .with_columns(pl.lit(value).alias(name) for name, value in identity.items())
            )
        if held is not None and made._files:
            made._spill(held, file.freq)
        elif held is not None:
            made._kept = _by_day(held)
        return made

    def rows(self, day: TimeRange) -> pl.DataFrame:
        """The rows of a day; each but once."""
        parts = [pl.read_ipc(path) for path in self._files.get(day.start_us, ())]
        if day.start_us in self._kept:
            parts.append(self._kept[day.start_us])
        if not parts:
            return pl.DataFrame()
        # A file cut into pieces may have a row in two of them.
        return pl.concat(parts).unique(maintain_order=True) if len(parts) > 1 else parts[0]

    def _spill(self, rows: pl.DataFrame, freq: str) -> None:
        for day, part in _by_day(rows).items():
            files = self._files.setdefault(day, [])
            files.append(self._folder / f"{freq}-{day}-{len(files)}.arrow")
            part.write_ipc(files[-1])


def _by_day(rows: pl.DataFrame) -> dict[int, pl.DataFrame]:
    parts = rows.partition_by(_DAY, as_dict=True, include_key=False, maintain_order=True)
    return {int(day): part for (day,), part in parts.items()}
