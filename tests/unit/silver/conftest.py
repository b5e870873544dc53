"""A lake in a folder, fed without a network: plan, units, decoding, merge and commits are the real ones."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest

from lakehouse_ray.bronze.plan import FreqPolicy, Plan, make_units, plan_objects
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.timespan import TimeRange, format_time, from_us
from lakehouse_ray.model.venue import Freq, Market
from lakehouse_ray.model.work import ObjectResult, ObjectTask, RawObject, Unit, version_of
from lakehouse_ray.silver.build import SilverBuilder
from lakehouse_ray.silver.regions import regions_of
from lakehouse_ray.silver.unit_work import Built, span_of
from lakehouse_ray.sources.binance.archive import folder_of, stem_of
from lakehouse_ray.sources.binance.decode import BinanceDecoder
from lakehouse_ray.sources.source import LISTING_SCHEMA, ObjectDecoder
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.committer import Committer
from lakehouse_ray.storage.files import FileEntry, index_files
from lakehouse_ray.storage.ledger import events, latest_by_key
from lakehouse_ray.storage.objects import LocalStore

MODIFIED_US = 1_700_000_000_000_000


@dataclass(frozen=True)
class Published:
    """One object as the exchange shows it now."""

    symbol: str
    freq: Freq
    period: TimeRange
    zip: bytes
    modified_us: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.zip).hexdigest()


def zipped(name: str, csv: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(zipfile.ZipInfo(name), csv, zipfile.ZIP_DEFLATED, 1)
    return buffer.getvalue()


@dataclass
class SmallLake:
    """Tables of one data set, the exchange's objects beside them, and the ledger in memory."""

    root: Path
    dataset: Dataset
    market: Market
    interval: str | None = None
    csv_bytes_in_memory: int = 1 << 30
    decoder: ObjectDecoder = field(
        default_factory=lambda: BinanceDecoder(inflated_bytes_max=1 << 32, inflate_ratio_max=200)
    )
    objects: dict[str, Published] = field(default_factory=dict)
    log: list[dict[str, object]] = field(default_factory=list)
    built: list[Built] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self.store = LocalStore(self.root / "data")
        self.access = CatalogAccess(f"sqlite:///{self.root}/catalog.db", self.store.root, {})
        self.table = self.dataset.table(self.interval)
        self.committer = Committer(self.access, self.table, "run")
        self.quarantine = Committer(self.access, QUARANTINE, "run")

    def publish(self, symbol: str, freq: Freq, period: TimeRange, csv: bytes) -> str:
        """Show an object; one that is there already is re-published, later than all others."""
        start = from_us(period.start_us)
        date = f"{start:%Y-%m-%d}" if freq == "daily" else f"{start:%Y-%m}"
        stem = stem_of(self.dataset, symbol, self.interval)
        key = (
            f"{folder_of(self.dataset, self.market, freq, symbol, self.interval)}{stem}-{date}.zip"
        )
        self.runs += 1
        self.objects[key] = Published(
            symbol,
            freq,
            period,
            zipped(f"{stem}-{date}.csv", csv),
            MODIFIED_US + self.runs * 1_000_000,
        )
        return key

    def listing(self) -> pl.DataFrame:
        rows = [
            (
                key, o.symbol, o.freq, o.period.start_us, o.period.end_us, len(o.zip),
                o.sha256[:32], o.sha256[:32], o.modified_us,
            )
            for key, o in sorted(self.objects.items())
        ]  # fmt: skip
        return pl.DataFrame(rows, schema=LISTING_SCHEMA, orient="row")

    def plan(self, freq: FreqPolicy = "auto") -> Plan:
        log = events(self.log).sort("seen_at", maintain_order=True)
        return plan_objects(
            self.dataset,
            self.market,
            self.interval,
            self.listing(),
            latest_by_key(log),
            freq=freq,
            decoder_version=self.decoder.version,
            attempts_max=3,
            now_us=self.now_us,
        )

    @property
    def now_us(self) -> int:
        return MODIFIED_US + 10**12 + self.runs * 1_000_000

    def ingest(
        self,
        freq: FreqPolicy = "auto",
        *,
        unit_bytes: int = 1 << 30,
        order: Callable[[list[Unit]], list[Unit]] = list,
    ) -> list[Built]:
        """One run over all that is listed; `order` says in which order its units are done."""
        self.runs += 1
        made: list[Built] = []
        plan = self.plan(freq)
        units = order(
            list(make_units(plan, bytes_max=unit_bytes, decoder_version=self.decoder.version))
        )
        for unit in units:
            built = self.build(unit, self.seen(unit))
            assert self.commit(built)
            made.append(built)
        return made

    def seen(self, unit: Unit) -> list[FileEntry]:
        index = index_files(self.table, TableCatalog(self.access).find(self.table.name))
        regions = regions_of(
            self.table, unit.market, unit.interval, unit.symbols, span_of(self.dataset, unit)
        )
        return list({e.path: e for r in regions for e in index.overlapping(r)}.values())

    def build(self, unit: Unit, seen: Sequence[FileEntry]) -> Built:
        builder = SilverBuilder(
            self.store,
            self.decoder,
            {self.dataset.name: self.dataset},
            csv_bytes_in_memory=self.csv_bytes_in_memory,
        )
        raw = self.fetch([task for task in unit.objects if task.role != "candidate"])
        return builder.build(unit, raw, seen, self.fetch, run_id=f"{self.runs}", now_us=self.now_us)

    def fetch(self, tasks: Sequence[ObjectTask]) -> list[RawObject]:
        return [self._fetch(task) for task in tasks]

    def _fetch(self, task: ObjectTask) -> RawObject:
        if task.role == "stored":
            data, version = self.store.get(task.known_path), task.known_version
            sha256, path = task.known_sha256, task.known_path
        else:
            published = self.objects[task.key]
            data, sha256 = published.zip, published.sha256
            version = version_of(format_time(published.modified_us), sha256)
            path = f"bronze/{sha256}.zip"
            self.store.put(path, data)
        return RawObject(
            ObjectResult(
                task,
                "built",
                etag=task.etag,
                last_modified_us=task.last_modified_us,
                size=len(data),
                sha256=sha256,
                version=version,
                path=path,
            ),
            data=data,
        )

    def commit(self, built: Built) -> bool:
        (outcome,) = self.committer.commit([built.silver])
        if not outcome.committed:
            return False
        self.quarantine.commit([replace(built.quarantine, id=f"{built.unit.id}-{self.runs}")])
        self.built.append(built)
        for result in built.results:
            if result.state not in ("built", "quarantined"):
                continue
            task = result.task
            self.log.append(
                {
                    "market": self.market, "dataset": self.dataset.name, "symbol": task.symbol,
                    "interval": self.interval, "freq": task.freq,
                    "period_start": task.period.start_us, "key": task.key, "url": "",
                    "etag": result.etag, "checksum_etag": task.checksum_etag,
                    "last_modified": result.last_modified_us, "size": result.size,
                    "published_sha256": result.sha256, "sha256": result.sha256,
                    "version": result.version or None, "path": result.path or None,
                    "state": result.state, "reason": result.reason or None, "detail": None,
                    "days_short": result.days_short or None, "rows": result.rows,
                    "rows_quarantined": result.rows_quarantined,
                    "decoder_version": self.decoder.version, "unit_id": built.unit.id,
                    "run_id": f"{self.runs}", "seen_at": self.now_us, "fetched": True,
                }
            )  # fmt: skip
        return True

    def frame(self, table: str | None = None) -> pl.DataFrame:
        """The table's rows, read from its metadata by Polars."""
        found = TableCatalog(self.access).find(table or self.table.name)
        assert found is not None
        if found.current_snapshot() is None:
            return pl.DataFrame()
        return pl.scan_iceberg(found.metadata_location, reader_override="pyiceberg").collect()

    def refused(self) -> pl.DataFrame:
        return self.frame(QUARANTINE.name)


MakeLake = Callable[..., SmallLake]


@pytest.fixture
def make_lake() -> Iterator[MakeLake]:
    """Make a lake of a data set; any number in one test, as hypothesis needs them."""
    roots: list[Path] = []

    def make(
        dataset: Dataset, market: Market, interval: str | None = None, **more: object
    ) -> SmallLake:
        root = Path(tempfile.mkdtemp(prefix="small-lake-"))
        roots.append(root)
        return SmallLake(root, dataset, market, interval, **more)  # type: ignore[arg-type]

    yield make
    for root in roots:
        shutil.rmtree(root)
