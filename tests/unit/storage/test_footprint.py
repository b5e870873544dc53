"""Requests and metadata by count, against runs that were counted and sums done by hand."""

from __future__ import annotations

import pytest

from lakehouse_ray.storage.footprint import footprint, upload_requests

MIB = 1 << 20


@pytest.mark.parametrize(
    # As moto's S3 was asked by pyarrow.
    ("mib", "requests"),
    [(1, 1), (4, 1), (8, 1), (32, 6), (128, 15)],
)
def test_an_upload_takes_what_was_counted(mib: int, requests: int) -> None:
    assert upload_requests(mib * MIB) == requests


@pytest.mark.parametrize(
    # Of runs against moto; each makes its tables, too, and drops little yet.
    ("files", "data_files", "commits", "writes", "reads"),
    [(96, 7, 1, 138, 17), (46, 35, 1, 116, 17), (46, 35, 35, 860, 455)],
)
def test_runs_are_told_as_they_were_counted(
    files: int, data_files: int, commits: int, writes: int, reads: int
) -> None:
    found = footprint(files, 50_000, data_files, 100_000, commits)
    assert found.writes == pytest.approx(writes, abs=30)
    assert found.reads == pytest.approx(reads, abs=5)


def test_metadata_grows_with_the_square_of_commits() -> None:
    few, many = (footprint(1000, MIB, 1000, MIB, commits) for commits in (1_000, 10_000))
    assert many.metadata_written_bytes > 80 * few.metadata_written_bytes
    # Of each of two tables: 10,000 snapshots of 785 bytes, written 10,000 times.
    assert many.metadata_written_bytes == pytest.approx(2 * 785 * 10_000**2 / 2, rel=0.15)


def test_nothing_asks_for_nothing() -> None:
    assert footprint(0, 0, 0, 0, 0).writes == 0
    assert footprint(0, 0, 0, 0, 0).metadata_bytes == 0
