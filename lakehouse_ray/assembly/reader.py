"""From settings to the components that read: store, catalog, lake. Nothing here can write."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.assembly.stores import catalog_access, s3_access
from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.query.witnesses import Bytes
from lakehouse_ray.remote import TIMEOUT_S
from lakehouse_ray.settings import Settings, load_settings
from lakehouse_ray.sources.binance.decode import BinanceDecoder
from lakehouse_ray.sources.binance.lines import find_lines
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.kept import KeptFiles
from lakehouse_ray.storage.objects import ObjectStore, open_store

# An HTTP client is a tenth of the time that a command takes to start, and a lake here needs none.
if TYPE_CHECKING:
    from lakehouse_ray.remote.asynchronous import AsyncRemoteLake
    from lakehouse_ray.remote.lake import RemoteLake


@dataclass(frozen=True)
class Reader:
    """Everything that reading needs. settings: With an absolute home."""

    settings: Settings

    @property
    def clock(self) -> Clock:
        return SystemClock()

    @cached_property
    def store(self) -> ObjectStore:
        return open_store(self.settings.storage_root, s3_access(self.settings))

    @property
    def access(self) -> CatalogAccess:
        return catalog_access(self.settings)

    @property
    def exists(self) -> bool:
        """Whether there is a catalog; one that is not on this disk is taken to be there."""
        path = self.access.sqlite_path
        return path is None or path.is_file()

    @cached_property
    def catalog(self) -> TableCatalog:
        return TableCatalog(self.access)

    def find(self, name: str) -> IcebergTable | None:
        """Return a table as it is now, or None. Looking for one does not make a catalog."""
        return self.catalog.find(name) if self.exists else None

    def find_all(self, names: Collection[str]) -> dict[str, IcebergTable]:
        """Those of these tables that are there, as they were at one moment."""
        return self.catalog.find_all(names) if self.exists else {}

    @cached_property
    def files(self) -> Bytes:
        """For `why` to read files again."""
        ingest = self.settings.ingest
        decoder = BinanceDecoder(
            inflated_bytes_max=ingest.inflated_bytes_max,
            inflate_ratio_max=ingest.inflate_ratio_max,
        )
        return Bytes(self.store, decoder, find_lines)

    @cached_property
    def lake(self) -> Lake:
        kept = KeptFiles(self.store, verify_files=self.settings.query.verify_files)
        engine = Engine(self.store, self.settings.home / "tmp", kept)
        return Lake(self.find, engine, self.files)


@overload
def connect(home: None = None) -> Lake: ...
@overload
def connect(home: Path) -> Lake: ...
@overload
def connect(
    home: str, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S
) -> Lake | RemoteLake: ...


def connect(
    home: str | Path | None = None, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S
) -> Lake | RemoteLake:
    """Open the lake of the settings, or the one that lives in `home`, for reading; or the one
    behind a query service at `http://…` or `https://…`.

    api_key: For a service that asks for one. timeout_s: Of one question to it, retries included.

    Raises LakehouseError where settings are wrong or the store cannot be reached. A service is not
    asked before the first question.
    """
    if isinstance(home, str) and home.startswith(("http://", "https://")):
        from lakehouse_ray.remote.lake import RemoteLake

        return RemoteLake(home, api_key=api_key, timeout_s=timeout_s)
    if home is not None and "://" in str(home):
        raise InvalidError(
            f"{str(home)!r} is no folder",
            "give the home of a lake on this machine, or http://… of a query service",
        )
    if api_key is not None:
        raise InvalidError("a lake on this machine takes no key", "http://… is a query service")
    settings = load_settings({"home": home} if home is not None else None)
    return Reader(settings.resolved()).lake


async def connect_async(
    url: str, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S
) -> AsyncRemoteLake:
    """The same as `connect` of a query service, with methods to be awaited."""
    from lakehouse_ray.remote.asynchronous import AsyncRemoteLake

    return AsyncRemoteLake(url, api_key=api_key, timeout_s=timeout_s)
