"""Finding the lines of a file by their time: what the file said, before anything was made of it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.decode import sniff
from lakehouse_ray.sources.binance.decode_careful import from_text
from lakehouse_ray.sources.binance.inflate import find_member, inflate_pieces
from lakehouse_ray.sources.binance.layouts import Cell
from lakehouse_ray.sources.source import FoundLines

# Of one moment there may be thousands of trades.
LINES_MAX = 100
_PIECE_BYTES = 16 << 20


def find_lines(
    dataset: Dataset,
    market: Market,
    key: str,
    file: Path,
    span: TimeRange,
    *,
    inflated_bytes_max: int = 64 << 30,
    inflate_ratio_max: int = 200,
) -> FoundLines:
    """Return the lines of a zip whose time lies in a range, `LINES_MAX` of them at most.

    The file is read in pieces. Raises BadDataError for one that cannot be read.
    """
    found: list[tuple[int, str]] = []
    header = ""
    before = 0
    place: tuple[int, Cell] | None = None
    with file.open("rb") as opened:
        member = find_member(
            opened, key, inflated_bytes_max=inflated_bytes_max, inflate_ratio_max=inflate_ratio_max
        )
        for body in inflate_pieces(opened, member, _PIECE_BYTES):
            if place is None:
                layout, has_header = sniff(dataset, market, key, body)
                place = next(
                    (i, cell) for i, cell in enumerate(layout) if cell.column == dataset.time
                )
                if has_header:
                    header = body.partition(b"\n")[0].decode("utf-8", "replace").strip("\r\ufeff")
            texts = body.decode("utf-8", "replace").removeprefix("\ufeff").split("\n")
            if texts and texts[-1] == "":
                texts.pop()
            if len(found) < LINES_MAX:
                found += _matching(texts, before, *place, span)
            before += len(texts)
    return FoundLines(header, tuple(found[:LINES_MAX]))


def _matching(
    texts: list[str], before: int, place: int, cell: Cell, span: TimeRange
) -> list[tuple[int, str]]:
    text = pl.col("raw").str.split(",").list.get(place, null_on_oob=True).str.strip_chars(' "\r')
    micro = from_text(cell, text.fill_null("")).dt.epoch("us")
    lines = pl.DataFrame({"raw": texts}, schema={"raw": pl.String}).with_row_index(
        "line", offset=before + 1
    )
    chosen = lines.filter((micro >= span.start_us) & (micro < span.end_us))
    return [(line, raw.rstrip("\r")) for line, raw in chosen.iter_rows()]
