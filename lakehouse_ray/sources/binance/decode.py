"""From the archive's CSV to typed rows.

`decode` reads the CSV of one or several files of a symbol. The quick
way parses all bytes at once with strict types. Whatever that cannot vouch for (a cell of the wrong
type, a missing or extra cell, a time outside the file's period, a key twice) sends the file the
careful way, line by line in columns of text, where each bad row is told apart with its line number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.inflate import (
    Member,
    find_member,
    inflate,
    inflate_pieces,
)
from lakehouse_ray.sources.binance.layouts import Cell, Layout, cells_of, is_header, layout_of
from lakehouse_ray.sources.source import BadRow, CsvFile, Decoded

# Raised whenever a change here could read the same bytes differently: objects read by an older
# version are read again from bronze.
DECODER_VERSION = 2

# Between the largest ms and the smallest µs that can be meant: 10^15 ms is the year 33658,
# 10^15 µs is September 2001.
_MICROSECONDS_FROM = 10**15
_RAW_CHARACTERS_MAX = 1000
_BOM = b"\xef\xbb\xbf"
_LINE_FEED = ord("\n")


def decode(dataset: Dataset, market: Market, files: Sequence[CsvFile]) -> list[Decoded]:
    """Decode files of one symbol, in the order given; one result per run of like files.

    Files of one layout are parsed together: one parse of 31 days costs less than half of 31.
    Raises BadDataError (UNKNOWN_COLUMNS, EMPTY) naming the key of the file in `detail`; the caller
    leaves that file out and asks again.
    """
    results: list[Decoded] = []
    for layout, run in _runs(dataset, market, files):
        quick = _decode_quickly(dataset, layout, run)
        results += [quick] if quick else [_decode_carefully(dataset, layout, file) for file in run]
    return results


class BinanceDecoder:
    """Reads the archive's zips. `sources.source.ObjectDecoder`."""

    version = DECODER_VERSION

    def __init__(self, *, inflated_bytes_max: int, inflate_ratio_max: int) -> None:
        self._bytes_max = inflated_bytes_max
        self._ratio_max = inflate_ratio_max

    def unpack(self, key: str, data: bytes, room_bytes: int) -> bytes | None:
        member = self._member(io.BytesIO(data), key)
        return None if member.inflated_bytes > room_bytes else inflate(data, member)

    def _member(self, file: io.BufferedIOBase, key: str) -> Member:
        return find_member(
            file, key, inflated_bytes_max=self._bytes_max, inflate_ratio_max=self._ratio_max
        )

    def check(self, dataset: Dataset, market: Market, key: str, csv: bytes) -> None:
        sniff(dataset, market, key, csv)

    def decode(self, dataset: Dataset, market: Market, files: Sequence[CsvFile]) -> list[Decoded]:
        return decode(dataset, market, files)

    def decode_pieces(
        self,
        dataset: Dataset,
        market: Market,
        key: str,
        symbol: str,
        period: TimeRange,
        file: Path,
        piece_bytes: int,
    ) -> Iterator[Decoded]:
        with file.open("rb") as opened:
            member = self._member(opened, key)
            layout: Layout | None = None
            lines = 0
            for body in inflate_pieces(opened, member, piece_bytes):
                header = False
                if layout is None:
                    layout, header = sniff(dataset, market, key, body)
                    body = body.removeprefix(_BOM)
                rest = body[body.index(b"\n") + 1 :] if header else body
                if not rest.endswith(b"\n"):
                    rest += b"\n"
                lines += int(header)
                part = _Run(CsvFile(key, symbol, period, b""), rest, _count_lines(rest), lines)
                lines += part.rows
                quick = _decode_quickly(dataset, layout, [part])
                yield quick or _decode_carefully(dataset, layout, part)
            if layout is None:
                raise BadDataError("EMPTY", f"{key}: no rows")


def sniff(dataset: Dataset, market: Market, key: str, data: bytes) -> tuple[Layout, bool]:
    """Return a file's layout and whether it has a header, from its first lines.

    Raises BadDataError (EMPTY, UNKNOWN_COLUMNS, NOT_UTF8).
    """
    lines = data[:8192].split(b"\n", 3)[:3]
    if not data or data.isspace():
        raise BadDataError("EMPTY", f"{key}: no rows")
    failure: BadDataError | None = None
    for i, line in enumerate(lines):
        try:
            text = line.decode().strip()
            layout, header = layout_of(dataset, market, text)
        except UnicodeDecodeError as error:
            raise BadDataError("NOT_UTF8", f"{key}: {error}") from error
        except BadDataError as error:
            # A header must be right; a first row may be damaged while those below are whole.
            if is_header(cells_of(text)):
                raise BadDataError(error.reason, f"{key}: {error.detail}") from error
            failure = failure or error
            continue
        return layout, header and i == 0
    assert failure is not None
    raise BadDataError(failure.reason, f"{key}: {failure.detail}")


@dataclass(frozen=True)
class _Run:
    """A file with its header cut off.

    lines_before: Lines of the file above `body`.
    """

    file: CsvFile
    body: bytes
    rows: int
    lines_before: int


def _runs(
    dataset: Dataset, market: Market, files: Sequence[CsvFile]
) -> Iterator[tuple[Layout, list[_Run]]]:
    current: Layout | None = None
    run: list[_Run] = []
    for file in files:
        layout, header = sniff(dataset, market, file.key, file.data)
        data = file.data.removeprefix(_BOM)
        body = data[data.index(b"\n") + 1 :] if header and b"\n" in data else data
        if header and b"\n" not in data:
            body = b""
        if body and not body.endswith(b"\n"):
            body += b"\n"
        if layout != current and run:
            assert current is not None
            yield current, run
            run = []
        current = layout
        run.append(_Run(file, body, _count_lines(body), int(header)))
    if run:
        assert current is not None
        yield current, run


def _count_lines(body: bytes) -> int:
    # A third of the time of bytes.count, which stops at every line.
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == _LINE_FEED))


def _decode_quickly(dataset: Dataset, layout: Layout, run: list[_Run]) -> Decoded | None:
    """Parse all files at once; None where anything is not as it should be."""
    body = run[0].body if len(run) == 1 else b"".join(part.body for part in run)
    if not body:
        return None
    texts = any(_CSV_TYPES[cell.type] is pl.String and cell.column for cell in layout)
    try:
        # Every column, wanted or not: of lines with too many or too few cells Polars tells only
        # where it reads the last one (two lines glued together would lose the second).
        raw = pl.read_csv(
            body,
            has_header=False,
            schema={cell.name: _CSV_TYPES[cell.type] for cell in layout},
            # Only the types with text ever quote a cell.
            quote_char='"' if texts and b'"' in body else None,
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        return None
    if raw.height != sum(part.rows for part in run):
        return None
    if not all(_holds(cell, raw[cell.name], run[0].file.symbol) for cell in layout):
        return None
    try:
        found = {cell.column: _typed(cell, raw[cell.name]) for cell in layout if cell.column}
    except pl.exceptions.PolarsError:
        return None
    # In the data set's order, so that nothing is left to do where it has them all.
    ordered = {c.name: found[c.name] for c in dataset.columns if c.name in found}
    frame = _complete(dataset, pl.DataFrame(ordered))
    counts = tuple(part.rows for part in run)
    order = _keys_and_times_hold(dataset, frame, run)
    if order is None:
        return None
    return Decoded(frame, counts, tuple(() for _ in run), tuple(0 for _ in run), order)


def _holds(cell: Cell, values: pl.Series, symbol: str) -> bool:
    """Whether a column has nothing that the careful way would have to look at."""
    if values.null_count() and not cell.optional:
        return False
    if cell.type == "double":
        return math.isfinite(values.sum())
    if cell.type == "boolean":
        return bool(values.is_in(_BOOLEAN_WORDS).all())
    if cell.type == "symbol":
        return bool((values == symbol).all())
    if cell.type == "string":
        # The careful way takes blanks off, and nothing is left of some.
        return bool(((values == values.str.strip_chars()) & (values != "")).all())
    return True


def _keys_and_times_hold(dataset: Dataset, frame: pl.DataFrame, run: list[_Run]) -> bool | None:
    """None: a time lies outside its file's period, or a file has a key twice.

    Else whether the rows of all files together are in strict order of their time and key.
    """
    time = frame[dataset.time]
    if time.null_count():
        return None
    micro = time.to_physical()
    sorted_by_time = micro.is_sorted()
    at = 0
    for part in run:
        if not part.rows:
            continue
        piece = micro.slice(at, part.rows)
        first, last = (piece[0], piece[-1]) if sorted_by_time else (piece.min(), piece.max())
        end = part.file.period.end_us + dataset.slack_us
        if first < part.file.period.start_us or last >= end:  # type: ignore[operator]
            return None
        at += part.rows
    if len(dataset.key) == 1:
        # Strictly rising: numpy compares in place what Polars would subtract first.
        key = frame[dataset.key[0]].to_physical().to_numpy()
        if bool(np.all(key[1:] > key[:-1])):
            return sorted_by_time
    # Not in strict order: unique all the same? Only inside each file matters here.
    at = 0
    for part in run:
        if _keys(dataset, frame.slice(at, part.rows)).is_duplicated().any():
            return None
        at += part.rows
    return False


_CSV_TYPES: dict[str, type[pl.DataType]] = {
    "epoch": pl.Int64,
    "text_time": pl.String,
    "long": pl.Int64,
    "double": pl.Float64,
    "boolean": pl.String,
    "string": pl.String,
    "symbol": pl.String,
    "ignored": pl.String,
}
_BOOLEAN_WORDS = ("true", "false", "True", "False")
_TIME = pl.Datetime("us", "UTC")


def _typed(cell: Cell, values: pl.Series) -> pl.Series:
    if cell.type == "epoch":
        return _epoch(values).cast(_TIME)
    if cell.type == "text_time":
        return pl.select(_text_time(pl.lit(values), strict=True)).to_series()
    if cell.type == "boolean":
        return values.is_in(("true", "True"))
    return values


def _epoch(values: pl.Series) -> pl.Series:
    """µs from ms or µs. Files change from one to the other at some day, so each value decides."""
    smallest, largest = values.min(), values.max()
    if smallest is None or int(smallest) >= _MICROSECONDS_FROM:  # type: ignore[arg-type]
        return values
    if int(largest) < _MICROSECONDS_FROM:  # type: ignore[arg-type]
        return values * 1000
    micro = pl.when(values >= _MICROSECONDS_FROM).then(values).otherwise(values * 1000)
    return pl.select(micro).to_series()


def _text_time(value: pl.Expr, *, strict: bool) -> pl.Expr:
    parsed = value.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=strict)
    return parsed.dt.replace_time_zone("UTC")


def _complete(dataset: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    """The data set's columns in order; those that this market's files lack are null."""
    if frame.columns == [column.name for column in dataset.columns]:
        return frame
    types = {"double": pl.Float64, "boolean": pl.Boolean, "long": pl.Int64, "string": pl.String}
    return frame.select(
        pl.col(column.name)
        if column.name in frame.columns
        else pl.lit(None, dtype=types.get(column.type, _TIME)).alias(column.name)
        for column in dataset.columns
    )


def _decode_carefully(dataset: Dataset, layout: Layout, part: _Run) -> Decoded:
    """Tell good rows from bad ones, line by line."""
    file = part.file
    texts = part.body.decode("utf-8", "replace").split("\n")[:-1]
    lines = pl.DataFrame({"_raw": texts}, schema={"_raw": pl.String})
    lines = lines.with_row_index("_line", offset=part.lines_before + 1).with_columns(
        pl.col("_raw").str.strip_chars_end("\r")
    )
    lines = lines.filter(pl.col("_raw").str.strip_chars() != "")
    cells = pl.col("_raw").str.split_exact(",", len(layout) - 1).struct
    table = lines.with_columns(
        (pl.col("_raw").str.count_matches(",", literal=True) + 1).alias("_cells"),
        *(
            cells.field(f"field_{i}").fill_null("").str.strip_chars(' "').alias(f"_{i}")
            for i in range(len(layout))
        ),
    )
    problems: list[pl.Expr] = [
        pl.when(pl.col("_cells") != len(layout)).then(
            pl.format("WRONG_CELL_COUNT|{} cells instead of {}", "_cells", pl.lit(len(layout)))
        )
    ]
    typed: list[pl.Expr] = []
    for i, cell in enumerate(layout):
        text = pl.col(f"_{i}")
        if cell.type == "ignored":
            continue
        value = from_text(cell, text)
        if cell.type == "symbol":
            problems.append(pl.when(text != file.symbol).then(pl.format("WRONG_SYMBOL|{}", text)))
            continue
        empty = text == ""
        bad = value.is_null() & ~empty if cell.optional else value.is_null()
        if cell.type == "double":
            bad = bad | ~value.is_finite().fill_null(True)
        problems.append(
            pl.when(bad).then(pl.format(f"UNTYPED_CELL|{cell.name} is {{}}", text.str.slice(0, 60)))
        )
        typed.append(value.alias(cell.column))
    start, end = file.period.start_us, file.period.end_us + dataset.slack_us
    table = table.with_columns(*typed)
    micro = pl.col(dataset.time).dt.epoch("us")
    problems.append(
        pl.when((micro < start) | (micro >= end)).then(
            pl.format(
                "OUTSIDE_PERIOD|{} is not in {}", pl.col(dataset.time), pl.lit(str(file.period))
            )
        )
    )
    table = table.with_columns(pl.coalesce(problems).alias("_problem"))
    bad_rows = table.filter(pl.col("_problem").is_not_null())
    good = table.filter(pl.col("_problem").is_null())

    columns = [cell.column for cell in layout if cell.column]
    before = good.height
    good = good.unique(subset=columns, keep="first", maintain_order=True)
    duplicates = before - good.height
    conflicting = _keys(dataset, good).is_duplicated()
    conflicts = good.filter(conflicting)
    good = good.filter(~conflicting)

    refused = [
        BadRow(line, reason, detail, raw[:_RAW_CHARACTERS_MAX])
        for line, problem, raw in bad_rows.select("_line", "_problem", "_raw").iter_rows()
        for reason, _, detail in (problem.partition("|"),)
    ] + [
        BadRow(
            line,
            "CONFLICTING_KEY",
            f"other rows of the file have the same {', '.join(dataset.key)} and other values",
            raw[:_RAW_CHARACTERS_MAX],
        )
        for line, raw in conflicts.select("_line", "_raw").iter_rows()
    ]
    frame = _complete(dataset, good.select(columns))
    return Decoded(
        frame,
        (frame.height,),
        (tuple(sorted(refused, key=lambda r: r.line)),),
        (duplicates,),
        clashing=_keys(dataset, conflicts).unique() if conflicts.height else None,
    )


def _keys(dataset: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    """What may stand once in a file: the key, or the key and the day (as `_day`)."""
    if not dataset.key_within_day:
        return frame.select(dataset.key)
    return frame.select(*dataset.key, pl.col(dataset.time).dt.date().alias("_day"))


def from_text(cell: Cell, text: pl.Expr) -> pl.Expr:
    """The typed value, null where the text is not one."""
    if cell.type == "epoch":
        number = text.cast(pl.Int64, strict=False)
        micro = pl.when(number >= _MICROSECONDS_FROM).then(number).otherwise(number * 1000)
        return micro.cast(_TIME)
    if cell.type == "text_time":
        return _text_time(text, strict=False)
    if cell.type == "long":
        return text.cast(pl.Int64, strict=False)
    if cell.type == "double":
        return text.cast(pl.Float64, strict=False)
    if cell.type == "boolean":
        return pl.when(text.is_in(_BOOLEAN_WORDS)).then(text.is_in(("true", "True")))
    return pl.when(text != "").then(text)
