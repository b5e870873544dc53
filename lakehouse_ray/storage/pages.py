"""Pages of Parquet files held against their checksums, without unpacking them.

DuckDB does not look at checksums of pages: a flipped bit comes back as another price. Here the bytes
are read and summed, which takes about a tenth of the time of reading rows.

A page is a header and its bytes. The header is a struct of Thrift's compact protocol, of which four
numbers matter: https://github.com/apache/parquet-format (`PageHeader`) and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
from pyarrow import fs as pafs

from lakehouse_ray.storage.objects import ObjectStore

# Files at once: the system's part of reading, and the sums, leave Python to others.
FILES_AT_ONCE = 4
# About 200 bytes each.
KNOWN_MAX = 200_000

# Fields of a PageHeader.
_COMPRESSED_SIZE, _CRC = 3, 4
# Types of Thrift's compact protocol.
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY = range(9)
_STRUCT = 12
# No header of a page is nested deeper than its statistics.
_DEPTH_MAX = 8


class DamagedPageError(OSError):
    """A page is not what was written."""


class CheckedFiles:
    """Files whose pages were right when they were first asked for here. For several threads.

    What has happened to a file on the disk since then is not noticed.
    """

    def __init__(self, store: ObjectStore, known_max: int = KNOWN_MAX) -> None:
        self._store = store
        self._known_max = known_max
        # Path, size and time of the last change.
        self._known: OrderedDict[tuple[str, int, int], None] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, paths: Iterable[str], stopped: Callable[[], None]) -> None:
        """Look at those that are not known yet.

        paths: In the store's file system. stopped: Raises where nobody waits any more.

        Raises OSError (also DamagedPageError), or pa.ArrowException for what is no Parquet file.
        """
        infos = self._store.filesystem.get_file_info(list(paths))
        asked = [(info.path, info.size or 0, info.mtime_ns or 0) for info in infos]
        with self._lock:
            new = [one for one in asked if one not in self._known]
            for one in asked:
                if one in self._known:
                    self._known.move_to_end(one)
        if not new:
            return

        def look(one: tuple[str, int, int]) -> None:
            check_pages(self._store.filesystem, one[0], stopped)
            with self._lock:
                self._known[one] = None
                while len(self._known) > self._known_max:
                    self._known.popitem(last=False)

        threads = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="pages")
        try:
            for _ in threads.map(look, new):
                pass
        finally:
            threads.shutdown(cancel_futures=True)


def check_pages(
    filesystem: pafs.FileSystem, path: str, stopped: Callable[[], None] = lambda: None
) -> int:
    """Hold each page of a file against its checksum. Returns how many pages have none.

    Memory: one column of a row group.

    Raises DamagedPageError, OSError, or pa.ArrowException for what is no Parquet file.
    """
    without = 0
    with filesystem.open_input_file(path) as source:
        metadata = pq.read_metadata(source)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for place in range(group.num_columns):
                stopped()
                column = group.column(place)
                start = column.data_page_offset
                if column.has_dictionary_page and column.dictionary_page_offset:
                    start = min(start, column.dictionary_page_offset)
                size = column.total_compressed_size
                where = f"{path}: column {column.path_in_schema} of row group {number}"
                chunk = source.read_at(size, start)
                if len(chunk) != size:
                    raise DamagedPageError(f"{where} ends too early")
                without += _check_chunk(memoryview(chunk), where)
    return without


def _check_chunk(chunk: memoryview, where: str) -> int:
    at = without = 0
    while at < len(chunk):
        try:
            size, crc, at = _header(chunk, at)
        except (IndexError, ValueError) as error:
            raise DamagedPageError(f"{where}: no header of a page where one should be") from error
        if size < 0 or at + size > len(chunk):
            raise DamagedPageError(f"{where}: a page is longer than its column")
        if crc is None:
            without += 1
        elif zlib.crc32(chunk[at : at + size]) != crc & 0xFFFFFFFF:
            raise DamagedPageError(f"{where}: a page does not have its checksum")
        at += size
    return without


def _header(data: memoryview, at: int) -> tuple[int, int | None, int]:
    """Compressed size and checksum of the page that begins here, and where its bytes begin.

    Raises IndexError or ValueError for what is no header.
    """
    size: int | None = None
    crc: int | None = None
    field = 0
    while True:
        head = data[at]
        at += 1
        if head == _STOP:
            break
        kind, step = head & 15, head >> 4
        if step:
            field += step
        else:
            number, at = _varint(data, at)
            field = _signed(number)
        if field in (_COMPRESSED_SIZE, _CRC) and kind == _I32:
            number, at = _varint(data, at)
            if field == _CRC:
                crc = _signed(number)
            else:
                size = _signed(number)
        else:
            at = _past(data, at, kind, 0)
    if size is None:
        raise ValueError("a page without a size")
    return size, crc, at


def _past(data: memoryview, at: int, kind: int, depth: int) -> int:
    """Where the value that begins here has ended."""
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deeply")
    if kind in (_TRUE, _FALSE):  # a field's type is its value
        return at
    if kind == _BYTE:
        return at + 1
    if kind in (_I16, _I32, _I64):
        return _varint(data, at)[1]
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        length, at = _varint(data, at)
        return at + length
    if kind == _STRUCT:
        while (head := data[at]) != _STOP:
            at += 1
            if not head >> 4:
                _, at = _varint(data, at)
            at = _past(data, at, head & 15, depth + 1)
        return at + 1
    raise ValueError(f"a header of a page has nothing of type {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number without an end")


def _signed(number: int) -> int:
    """From the zigzag form, where small numbers of either sign are short."""
    return (number >> 1) ^ -(number & 1)
