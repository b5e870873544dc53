"""What manifests and lists of manifests say, as pyiceberg reads them, by readers that are kept.

Each file has its schema with it, and to make a reader of that takes longer than to read a small file.
There are few schemas: one for each version of the format and each way of partitioning.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Self

from pyiceberg.avro.decoder import new_decoder
from pyiceberg.avro.file import META_SCHEMA, AvroFile, AvroFileHeader
from pyiceberg.avro.reader import Reader
from pyiceberg.avro.resolver import construct_reader, resolve_reader
from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    DEFAULT_READ_VERSION,
    MANIFEST_ENTRY_SCHEMAS,
    MANIFEST_LIST_FILE_SCHEMAS,
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    PartitionFieldSummary,
    _inherit_from_manifest,
    _manifest_cache,
)
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.utils.schema_conversion import AvroSchemaConversion

_SCHEMAS_KEPT = 64


def manifests_of(snapshot: Snapshot, io: FileIO) -> list[ManifestFile]:
    """`snapshot.manifests`."""
    with _ManifestList(io.new_input(snapshot.manifest_list)) as file:
        return [_manifest_cache.get_or_cache(manifest) for manifest in file]


def entries_of(manifest: ManifestFile, io: FileIO) -> list[ManifestEntry]:
    """`manifest.fetch_manifest_entry`: those that are live."""
    with _Manifest(io.new_input(manifest.manifest_path)) as file:
        return [
            _inherit_from_manifest(entry, manifest)
            for entry in file
            if entry.status != ManifestEntryStatus.DELETED
        ]


class _Manifest(AvroFile[ManifestEntry]):
    __slots__ = ()

    def __enter__(self) -> Self:
        with self.input_file.open() as file:
            self.decoder = new_decoder(file.read())
        self.header = _HEADER.read(self.decoder)
        self.reader = _entry_reader(_schema_text(self.header))
        return self


class _ManifestList(AvroFile[ManifestFile]):
    __slots__ = ()

    def __enter__(self) -> Self:
        with self.input_file.open() as file:
            self.decoder = new_decoder(file.read())
        self.header = _HEADER.read(self.decoder)
        self.reader = _list_reader(_schema_text(self.header))
        return self


_HEADER = construct_reader(META_SCHEMA, {-1: AvroFileHeader})


def _schema_text(header: AvroFileHeader) -> str:
    try:
        return header.meta["avro.schema"]
    except KeyError:
        raise ValueError("No schema found in Avro file headers") from None


@lru_cache(_SCHEMAS_KEPT)
def _entry_reader(schema: str) -> Reader:
    return resolve_reader(
        AvroSchemaConversion().avro_to_iceberg(json.loads(schema)),
        MANIFEST_ENTRY_SCHEMAS[DEFAULT_READ_VERSION],
        read_types={-1: ManifestEntry, 2: DataFile},
        read_enums={0: ManifestEntryStatus, 101: FileFormat, 134: DataFileContent},
    )


@lru_cache(_SCHEMAS_KEPT)
def _list_reader(schema: str) -> Reader:
    return resolve_reader(
        AvroSchemaConversion().avro_to_iceberg(json.loads(schema)),
        MANIFEST_LIST_FILE_SCHEMAS[DEFAULT_READ_VERSION],
        read_types={-1: ManifestFile, 508: PartitionFieldSummary},
        read_enums={517: ManifestContent},
    )
