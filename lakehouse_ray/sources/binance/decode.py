"""From the archive's CSV to typed rows.

`decode` reads the CSV of one or several files of a symbol. The quick
way parses all bytes at once with strict types. Whatever that cannot vouch for (a cell of the wrong
type, a missing or extra cell, a time outside the file's period, a key twice) sends the file the
careful way, line by line in columns of text, where each bad row is told apart with its line number.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.decode_careful import decode_carefully
from lakehouse_ray.sources.binance.decode_quick import decode_quickly
from lakehouse_ray.sources.binance.decode_rows import Run
from lakehouse_ray.sources.binance.inflate import (
    Member,
    find_member,
    inflate,
    inflate_pieces,
)
from lakehouse_ray.sources.binance.layouts import Layout, cells_of, is_header, layout_of
from lakehouse_ray.sources.source import Csv, CsvFile, Decoded

# Raised whenever a change here or in `decode_*` could read the same bytes differently: objects read by
# an older version are read again from bronze.
DECODER_VERSION = 2

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
        quick = decode_quickly(dataset, layout, run)
        results += [quick] if quick else [decode_carefully(dataset, layout, file) for file in run]
    return results


class BinanceDecoder:
    """Reads the archive's zips. `sources.source.ObjectDecoder`."""

    version = DECODER_VERSION

    def __init__(self, *, inflated_bytes_max: int, inflate_ratio_max: int) -> None:
        self._bytes_max = inflated_bytes_max
        self._ratio_max = inflate_ratio_max

    def unpack(self, key: str, data: bytes, room_bytes: int) -> Csv | None:
        member = self._member(io.BytesIO(data), key)
        return None if member.inflated_bytes > room_bytes else inflate(data, member)

    def _member(self, file: io.BufferedIOBase, key: str) -> Member:
        return find_member(
            file, key, inflated_bytes_max=self._bytes_max, inflate_ratio_max=self._ratio_max
        )

    def check(self, dataset: Dataset, market: Market, key: str, csv: Csv) -> None:
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
                part = Run(CsvFile(key, symbol, period, b""), rest, _count_lines(rest), lines)
                lines += part.rows
                quick = decode_quickly(dataset, layout, [part])
                yield quick or decode_carefully(dataset, layout, part)
            if layout is None:
                raise BadDataError("EMPTY", f"{key}: no rows")


def sniff(dataset: Dataset, market: Market, key: str, data: Csv) -> tuple[Layout, bool]:
    """Return a file's layout and whether it has a header, from its first lines.

    Raises BadDataError (EMPTY, UNKNOWN_COLUMNS, NOT_UTF8).
    """
    lines = bytes(data[:8192]).split(b"\n", 3)[:3]
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


def _runs(
    dataset: Dataset, market: Market, files: Sequence[CsvFile]
) -> Iterator[tuple[Layout, list[Run]]]:
    current: Layout | None = None
    run: list[Run] = []
    for file in files:
        layout, header = sniff(dataset, market, file.key, file.data)
        data = file.data[len(_BOM) :] if file.data.startswith(_BOM) else file.data
        body = data[data.index(b"\n") + 1 :] if header and b"\n" in data else data
        if header and b"\n" not in data:
            body = b""
        if body and not body.endswith(b"\n"):
            body = body + b"\n"  # not into the file's own bytes
        if layout != current and run:
            assert current is not None
            yield current, run
            run = []
        current = layout
        run.append(Run(file, body, _count_lines(body), int(header)))
    if run:
        assert current is not None
        yield current, run


def _count_lines(body: Csv) -> int:
    # A third of the time of bytes.count, which stops at every line.
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == _LINE_FEED))
