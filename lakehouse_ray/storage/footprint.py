"""What an ingestion asks of S3, and what its metadata takes: pure functions of counts.

The figures are those of `tests/benchmarks/bench_requests.py`; docs/sizing.md has the formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# pyarrow's part of an upload: what is smaller is one request.
PART_BYTES = 10 << 20

# A commit is a snapshot of the data set's table and one of the ledger, with all that goes with them.
# Once each table has 20 older versions of its metadata and drops one for each new one.
_WRITES_A_COMMIT = 23
_READS_A_COMMIT = 13
_TABLES = 2
_MANIFEST_BYTES = 6_900
_LIST_BYTES = 1_800
# A manifest list names the manifests of all commits before it.
_LIST_BYTES_A_COMMIT = 46
_SNAPSHOT_BYTES = 785
# Iceberg's metadata is written anew with each snapshot; this one and the 20 before it are kept.
_METADATA_FILES = 21
_MANIFEST_BYTES_A_DATA_FILE = 311
_LEDGER_BYTES_A_FILE = 174


@dataclass(frozen=True)
class Footprint:
    """writes: PUT, POST and LIST. reads: GET and HEAD, of metadata. metadata_bytes: Iceberg's and the
    ledger's, as long as no snapshot expires. metadata_written_bytes: All that was written of it."""

    writes: int
    reads: int
    metadata_bytes: int
    metadata_written_bytes: int


def upload_requests(size_bytes: float) -> int:
    """Requests that an object of this size takes: the upload's beginning, its parts and its end."""
    if size_bytes < PART_BYTES:
        return 1
    return 2 + math.ceil(size_bytes / PART_BYTES)


def footprint(
    files: int, file_bytes: float, data_files: int, data_file_bytes: float, commits: int
) -> Footprint:
    """Return what so many files of the archive ask for. file_bytes, data_file_bytes: The mean of one."""
    manifests = _TABLES * commits * _MANIFEST_BYTES + data_files * _MANIFEST_BYTES_A_DATA_FILE
    lists = _TABLES * (commits * _LIST_BYTES + commits**2 // 2 * _LIST_BYTES_A_COMMIT)
    latest = _TABLES * commits * _SNAPSHOT_BYTES
    kept = manifests + lists + files * _LEDGER_BYTES_A_FILE
    return Footprint(
        writes=files * upload_requests(file_bytes)
        + data_files * upload_requests(data_file_bytes)
        + commits * _WRITES_A_COMMIT,
        reads=commits * _READS_A_COMMIT,
        metadata_bytes=kept + min(_METADATA_FILES, commits) * latest,
        metadata_written_bytes=kept + commits * latest // 2,
    )
