"""Rows as people read them: aligned columns of text."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# Longer texts are cut.
CELL_CHARS_MAX = 60
# Widths are those of the first rows; later ones may stick out.
_WIDTH_ROWS = 1000
# Rows beyond the shown ones are counted this far; then "more than" will do.
_COUNT_ROWS_MAX = 10_000_000
_RIGHT = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "HUGE")


def print_table(
    columns: Sequence[str],
    types: Sequence[str],
    frames: Iterator[pl.DataFrame],
    sink: IO[bytes],
    rows_max: int | None,
    quiet: bool,
) -> None:
    """Write frames as one table; says on stderr how many rows were left out.

    types: In SQL; numbers are aligned to the right.
    """
    right = [any(word in kind.upper() for word in _RIGHT) for kind in types]
    widths: list[int] | None = None
    shown, left_out = 0, 0
    for frame in frames:
        room = frame.height if rows_max is None else rows_max - shown
        left_out += max(0, frame.height - room)
        cells = [[_cell(value) for value in row] for row in frame.head(max(0, room)).iter_rows()]
        shown += len(cells)
        if widths is None:
            widths = _widths(columns, cells[:_WIDTH_ROWS])
            rule = ["─" * width for width in widths]
            _write(sink, [_line(columns, widths, right), _line(rule, widths, right)])
        _write(sink, [_line(row, widths, right) for row in cells])
        if left_out > _COUNT_ROWS_MAX:
            break
    if quiet:
        return
    if left_out:
        more = "more than " if left_out > _COUNT_ROWS_MAX else ""
        note = f"{shown:,} rows shown, {more}{left_out:,} more; --rows 0 shows all"
    else:
        note = f"{shown:,} row{'s' if shown != 1 else ''}"
    print(f"({note})", file=sys.stderr)  # noqa: T201


def aligned(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a small table; numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    right = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    widths = _widths(columns, cells)
    rule = ["─" * width for width in widths]
    return [_line(line, widths, right) for line in (list(columns), rule, *cells)]


def cells_of(text: str) -> int:
    """Columns that a terminal takes for a text: names of symbols may be Chinese, and wide."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """A text moved to one side of so many columns."""
    space = " " * (width - cells_of(text))
    return space + text if right else text + space


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, float) else str(value)
    text = text.replace("\n", "⏎")
    return text if len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 1] + "…"


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(cells_of(name), *(cells_of(row[i]) for row in rows)) if rows else cells_of(name)
        for i, name in enumerate(columns)
    ]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        pad(cell, width, right=to_right)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()


def _write(sink: IO[bytes], lines: Sequence[str]) -> None:
    sink.write("".join(f"{line}\n" for line in lines).encode())
