"""The content defects that files of the archive have had, each a pure function from good to bad.

Which rows are hit is drawn from a generator that the caller seeds, so a defect hits the same rows
every time. `zip_defects` has the defects of the file around the rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from types import MappingProxyType

from lakehouse_ray.testing.exchange.keys import INTERVAL_SECONDS, SHAPES, ArchiveKey, columns

Value = str | int | float
Params = Mapping[str, Value]
# Times from here on are microseconds: as milliseconds it would be the year 5138.
_MICROSECONDS_FROM = 10**14
_TEXT_TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class Table:
    """A CSV as lines without their newlines; `header` is None where the file has none."""

    key: ArchiveKey
    header: bytes | None
    rows: list[bytes]

    @classmethod
    def parse(cls, key: ArchiveKey, data: bytes) -> Table:
        lines = data.splitlines()
        if lines and not lines[0][:1].isdigit():
            return cls(key, lines[0], lines[1:])
        return cls(key, None, lines)

    def render(self) -> bytes:
        lines = self.rows if self.header is None else [self.header, *self.rows]
        return b"".join(line + b"\n" for line in lines)


@dataclass(frozen=True)
class Defect:
    """A defect with the parameters it takes and their defaults."""

    apply: Callable[[Table, Params, random.Random], Table]
    defaults: Params


def _glued_line(table: Table, params: Params, rng: random.Random) -> Table:
    rows = list(table.rows)
    for at in sorted(_pick(rows, params, rng, spare=1), reverse=True):
        if at + 1 < len(rows):
            rows[at : at + 2] = [rows[at] + rows[at + 1]]
    return replace(table, rows=rows)


def _untyped_cell(table: Table, params: Params, rng: random.Random) -> Table:
    return _each(table, params, rng, lambda cells: _set(cells, table, str(params["text"])))


def _blank_cells(table: Table, params: Params, rng: random.Random) -> Table:
    return _each(table, params, rng, lambda cells: _set(cells, table, '""'))


def _stale_values(table: Table, params: Params, rng: random.Random) -> Table:
    return _each(table, params, rng, lambda cells: _set(cells, table, _bumped(cells, table)))


def _scientific_notation(table: Table, params: Params, rng: random.Random) -> Table:
    def rewrite(cells: list[str]) -> list[str]:
        number = _number(cells[_value_at(table)])
        return cells if number is None else _set(cells, table, f"{number:E}")

    return _each(table, params, rng, rewrite)


def _duplicate_rows(table: Table, params: Params, rng: random.Random) -> Table:
    hit = set(_pick(table.rows, params, rng))
    rows = [line for at, row in enumerate(table.rows) for line in [row] * (1 + (at in hit))]
    return replace(table, rows=rows)


def _conflicting_key(table: Table, params: Params, rng: random.Random) -> Table:
    hit = set(_pick(table.rows, params, rng))
    rows: list[bytes] = []
    for at, row in enumerate(table.rows):
        rows.append(row)
        if at in hit:
            cells = _cells(row)
            rows.append(_line(_set(cells, table, _bumped(cells, table))))
    return replace(table, rows=rows)


def _row_outside_period(table: Table, params: Params, rng: random.Random) -> Table:
    days = (table.key.end - table.key.period).days + int(params["days_late"])
    hit = sorted(_pick(table.rows, params, rng))
    late = [_line(_moved(_cells(table.rows[at]), table, days * 86_400_000)) for at in hit]
    return replace(table, rows=table.rows + late)


def _unordered_rows(table: Table, params: Params, rng: random.Random) -> Table:
    rows = list(table.rows)
    for at in _pick(rows, params, rng, spare=1):
        if at + 1 < len(rows):
            other = rng.randrange(at + 1, len(rows))
            rows[at], rows[other] = rows[other], rows[at]
    return replace(table, rows=rows)


def _missing_rows(table: Table, params: Params, rng: random.Random) -> Table:
    count = len(table.rows)
    start = int(float(params["from"]) * count)
    end = int(float(params["to"]) * count)
    return replace(table, rows=table.rows[:start] + table.rows[end:])


def _header_missing(table: Table, params: Params, rng: random.Random) -> Table:
    return replace(table, header=None)


def _header_present(table: Table, params: Params, rng: random.Random) -> Table:
    return replace(table, header=_header(table))


def _unknown_column(table: Table, params: Params, rng: random.Random) -> Table:
    header = None if table.header is None else table.header + f",{params['name']}".encode()
    return replace(table, header=header, rows=[row + b",0" for row in table.rows])


def _renamed_column(table: Table, params: Params, rng: random.Random) -> Table:
    names = _header(table).decode().split(",")
    names[_value_at(table)] = str(params["name"])
    return replace(table, header=",".join(names).encode())


def _other_time_unit(table: Table, params: Params, rng: random.Random) -> Table:
    at_close = 6 if _is_klines(table) else -1

    def rewrite(cells: list[str]) -> list[str]:
        for column in (SHAPES[table.key.dataset].time_column, at_close):
            if column >= 0 and cells[column].isdigit():
                time = int(cells[column])
                micros = time >= _MICROSECONDS_FROM
                other = time // 1000 if micros else time * 1000
                # The last microsecond of a bar is the last millisecond, and the other way round.
                cells[column] = str(other + (999 if column == at_close and not micros else 0))
        return cells

    return _each(table, params, rng, rewrite)


def _early_close(table: Table, params: Params, rng: random.Random) -> Table:
    if not _is_klines(table):
        return table
    rows = list(table.rows)
    for at in sorted(_pick(rows, params, rng, spare=1), reverse=True):
        cells = _cells(rows[at])
        opened, closed = int(cells[0]), int(cells[6])
        cells[2:5] = [cells[1]] * 3
        cells[5] = cells[7] = cells[9] = cells[10] = "0.00000000"
        cells[6], cells[8] = str(opened + (closed - opened) * 2 // 5), "0"
        rows[at : at + 2] = [_line(cells)]
    return replace(table, rows=rows)


def _off_grid(table: Table, params: Params, rng: random.Random) -> Table:
    if not _is_klines(table):
        return table
    rows = list(table.rows)
    count = min(int(params["rows"]), len(rows))
    first = rng.randrange(len(rows) - count + 1) if rows else 0
    shift = INTERVAL_SECONDS[table.key.interval] * 280  # milliseconds: 28 % of the interval
    for at in range(first, first + count):
        closed = _cells(rows[at])[6]
        cells = _moved(_cells(rows[at]), table, shift)
        if at == first + count - 1:
            cells[6] = closed  # the bar that rejoins the grid is short
        rows[at] = _line(cells)
    return replace(table, rows=rows)


def _rows(count: int, **more: Value) -> Params:
    return MappingProxyType({"rows": count, **more})


_NONE: Params = MappingProxyType({})
CONTENT: Mapping[str, Defect] = MappingProxyType(
    {
        "glued_line": Defect(_glued_line, _rows(1)),
        "untyped_cell": Defect(_untyped_cell, _rows(1, text="abc")),
        "blank_cells": Defect(_blank_cells, _rows(3)),
        "duplicate_rows": Defect(_duplicate_rows, _rows(3)),
        "conflicting_key": Defect(_conflicting_key, _rows(1)),
        "row_outside_period": Defect(_row_outside_period, _rows(1, days_late=1)),
        "unordered_rows": Defect(_unordered_rows, _rows(5)),
        # 2025-04-22 ended at 07:36: 456 of 1,440 minutes were there.
        "missing_rows": Defect(_missing_rows, MappingProxyType({"from": 0.317, "to": 1.0})),
        "header_missing": Defect(_header_missing, _NONE),
        "header_present": Defect(_header_present, _NONE),
        "unknown_column": Defect(_unknown_column, MappingProxyType({"name": "mystery"})),
        "renamed_column": Defect(_renamed_column, MappingProxyType({"name": "renamed"})),
        "other_time_unit": Defect(_other_time_unit, _rows(0)),
        "scientific_notation": Defect(_scientific_notation, _rows(0)),
        "early_close": Defect(_early_close, _rows(1)),
        "off_grid": Defect(_off_grid, _rows(43)),
        "stale_values": Defect(_stale_values, _rows(3)),
    }
)


def _pick(rows: list[bytes], params: Params, rng: random.Random, spare: int = 0) -> list[int]:
    """Draw as many row numbers as `rows` says (0: all), none of the last `spare` rows."""
    count = max(0, len(rows) - spare)
    wanted = int(params["rows"])
    return list(range(count)) if wanted == 0 else rng.sample(range(count), min(wanted, count))


def _each(
    table: Table, params: Params, rng: random.Random, change: Callable[[list[str]], list[str]]
) -> Table:
    rows = list(table.rows)
    for at in _pick(rows, params, rng):
        rows[at] = _line(change(_cells(rows[at])))
    return replace(table, rows=rows)


def _set(cells: list[str], table: Table, text: str) -> list[str]:
    cells[_value_at(table)] = text
    return cells


def _bumped(cells: list[str], table: Table) -> str:
    """The value one unit of its last decimal higher, so that it stays a plausible one."""
    text = cells[_value_at(table)]
    number = _number(text)
    if number is None:
        return "1"
    exponent = number.as_tuple().exponent
    return f"{number + Decimal((0, (1,), exponent if isinstance(exponent, int) else 0)):f}"


def _moved(cells: list[str], table: Table, milliseconds: int) -> list[str]:
    """The row at another time, under an id of its own where it has one."""
    at_time = SHAPES[table.key.dataset].time_column
    for column in (at_time, 6) if _is_klines(table) else (at_time,):
        text = cells[column].strip('"')
        if text.isdigit():
            unit = 1000 if int(text) >= _MICROSECONDS_FROM else 1
            cells[column] = str(int(text) + milliseconds * unit)
        else:
            moved = datetime.strptime(text, _TEXT_TIME) + timedelta(milliseconds=milliseconds)  # noqa: DTZ007 - only text goes in and out
            cells[column] = moved.strftime(_TEXT_TIME)
    if at_time != 0 and cells[0].isdigit():
        cells[0] = str(int(cells[0]) + 10**9)
    return cells


def _header(table: Table) -> bytes:
    return table.header or ",".join(columns(table.key.market, table.key.dataset)).encode()


def _value_at(table: Table) -> int:
    return SHAPES[table.key.dataset].value_column


def _is_klines(table: Table) -> bool:
    return SHAPES[table.key.dataset].by_interval


def _cells(row: bytes) -> list[str]:
    return row.decode().split(",")


def _line(cells: list[str]) -> bytes:
    return ",".join(cells).encode()


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None
