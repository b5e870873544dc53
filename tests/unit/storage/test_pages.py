"""Checksums of pages: any bit of any page counts, and what is right is never refused."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.storage.pages import CheckedFiles, DamagedPageError, check_pages

ROWS = 4000


def table() -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "name": pa.array([f"S{n % 7}" for n in range(ROWS)]).dictionary_encode(),
            "price": pa.array(rng.normal(size=ROWS), mask=rng.random(ROWS) < 0.1),
            "time": pa.array(np.arange(ROWS) * 60, pa.timestamp("us", "UTC")),
            "text": [f"{n:x}" * (n % 9) for n in range(ROWS)],
            "yes": rng.random(ROWS) < 0.5,
            "many": [[n, n + 1] if n % 3 else None for n in range(ROWS)],
        }
    )


def put(path: Path, *, checksums: bool = True, **options: object) -> Path:
    pq.write_table(
        table(),
        path,
        row_group_size=1500,
        data_page_size=2000,
        write_page_checksum=checksums,
        **options,
    )
    return path


def check(path: Path) -> int:
    return check_pages(pafs.LocalFileSystem(), str(path))


def chunks(path: Path) -> list[tuple[int, int]]:
    """Where each column of each row group begins and ends."""
    metadata = pq.read_metadata(path)
    found = []
    for number in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(number).column(place)
            start = column.dictionary_page_offset or column.data_page_offset
            found.append((start, start + column.total_compressed_size))
    return found


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_pages_of_every_kind_are_right_as_written(
    tmp_path: Path, version: str, compression: str
) -> None:
    options = {"data_page_version": version, "compression": compression}
    assert check(put(tmp_path / "a", **options, write_statistics=False)) == 0
    path = put(tmp_path / "b", **options, write_page_index=True)
    assert check(path) == 0
    assert check(put(tmp_path / "c", checksums=False, **options)) > len(chunks(path))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_flipped_bit_is_found_wherever_pyarrow_finds_it(tmp_path: Path, version: str) -> None:
    """Beyond what it finds, nothing but headers, which have no checksum, may be refused."""
    path = put(tmp_path / "rows.parquet", data_page_version=version, compression="zstd")
    whole = path.read_bytes()
    rng = random.Random(version)
    places = chunks(path)
    found = 0
    for _ in range(150):
        start, end = rng.choice(places)
        at = rng.randrange(start, end)
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            pq.read_table(path, page_checksum_verification=True, use_threads=False)
        except OSError as error:
            if "CRC" in str(error) or "checksum" in str(error):
                found += 1
                with pytest.raises(DamagedPageError, match=r"rows\.parquet: column \w+.* of row"):
                    check(path)
    assert found > 100


def test_a_file_that_is_cut_off_or_none_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.parquet")
    whole = path.read_bytes()
    (_, end), *_ = chunks(path)
    path.write_bytes(whole[:4] + whole[end:])
    with pytest.raises(DamagedPageError):
        check(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((OSError, pa.ArrowException)):
        check(path)
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "none.parquet")


def test_a_file_is_looked_at_once_until_it_changes(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.parquet")
    checked = CheckedFiles(LocalStore(tmp_path))
    looks = []
    for _ in range(2):
        checked.check([str(path)], lambda: looks.append(1))
    assert len(looks) == len(chunks(path))
    whole = bytearray(path.read_bytes())
    whole[chunks(path)[0][1] - 1] ^= 1
    path.write_bytes(whole)
    os.utime(path, ns=(1, 1))
    for _ in range(2):
        with pytest.raises(DamagedPageError):
            checked.check([str(path)], lambda: None)
    checked.check([], lambda: None)


def test_what_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    paths = [str(put(tmp_path / f"{number}.parquet")) for number in range(8)]
    stop = threading.Event()

    def stopped() -> None:
        if stop.is_set():
            raise TimeoutError
        stop.set()

    with pytest.raises(TimeoutError):
        CheckedFiles(LocalStore(tmp_path)).check(paths, stopped)
