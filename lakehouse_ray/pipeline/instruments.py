"""The data set `instruments`: exchangeInfo and the archive's symbols, to bronze and silver.

    REST -> bronze -> ledger (received) -> silver, quarantine -> ledger (built)
    listing ------------------------------> silver

An answer cannot be fetched again as it was: the next one is of another moment. So the ledger says
that it is here, and since when, before anything is made of it. Whoever dies in between leaves an
answer that the next run reads first, with its own time.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from pyiceberg.expressions import EqualTo

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import BadDataError, NotFoundError, UnavailableError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.instruments import (
    EXCHANGE_INFO_KEYS,
    INSTRUMENT_STATES,
    INSTRUMENTS,
    LISTING_SIGHTINGS,
)
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.model.venue import FREQS, Market
from lakehouse_ray.model.work import version_of
from lakehouse_ray.pipeline.commits import Committers, open_committers
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.silver.instruments import (
    KNOWN_SIGHTINGS,
    KNOWN_STATES,
    latest_digests,
    new_sightings,
    new_states,
    refused_answer,
    refused_records,
)
from lakehouse_ray.sources.binance.instruments import (
    exchange_info_url,
    read_exchange_info,
    same_content,
)
from lakehouse_ray.sources.http import Response
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.storage.files import PartitionKey
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import events, log_request, plain_rows, read_object_log
from lakehouse_ray.storage.paths import BronzePath

# An answer that says what the last one said is noted again after so long.
SIGHTING_AGE_US = 24 * 3600 * 1_000_000
_VENUE = "binance"
_READER_VERSION = 1


@dataclass(frozen=True)
class _Answer:
    """A version of the answer that the ledger knows. received_us: When it came."""

    state: str
    version: str
    sha256: str
    path: str
    url: str
    size: int
    received_us: int
    last_seen_us: int


def ingest_instruments(writer: Writer, market: Market) -> IngestReport:
    """Ask the exchange what it trades and the archive what it lists; keep what has changed.

    Running it again adds nothing as long as both say the same.

    Raises LakehouseError where the exchange, the archive, the store or the catalog cannot be
    reached; what was kept before stays.
    """
    started_s = time.monotonic()
    run = _Run(writer, market)
    tables = (INSTRUMENT_STATES, LISTING_SIGHTINGS, QUARANTINE, OBJECT_LOG)
    with open_committers(writer, tables, run.report.run_id, local=True) as committers:
        run.execute(committers)
    run.report.seconds = run.report.work_seconds = time.monotonic() - started_s
    return run.report


class _Run:
    """The state of one run."""

    def __init__(self, writer: Writer, market: Market) -> None:
        self._writer = writer
        self._market = market
        self._key = EXCHANGE_INFO_KEYS[market]
        self._url = exchange_info_address(writer, market)
        self.report = IngestReport(
            run_id=f"{writer.clock.now_us():x}-{uuid.uuid4().hex[:8]}",
            market=market,
            dataset=INSTRUMENTS,
            executor="local",
            actors=1,
        )

    def execute(self, committers: Committers) -> None:
        self._committers = committers
        known = self._known_answers()
        # What an earlier run left comes first: its time is earlier.
        for answer in known:
            if answer.state == "received":
                self._build(answer)
        try:
            received = self._receive(asyncio.run(self._fetch()), known[-1] if known else None)
            if received is not None:
                self._build(received)
        finally:
            # The archive's listing is worth keeping although REST may be out of reach from here.
            self._list()

    async def _fetch(self) -> Response:
        client = self._writer.http_client()
        try:
            return await client.get(self._url, fresh=True)
        finally:
            await client.close()

    def _receive(self, response: Response, last: _Answer | None) -> _Answer | None:
        """Put an answer into bronze and the ledger; None where it says what the last one did."""
        body, now_us = response.body, self._writer.clock.now_us()
        self.report.bytes += len(body)
        if last is not None and self._says_the_same(last, body):
            self.report.skipped += 1
            old = last.last_seen_us < now_us - SIGHTING_AGE_US
            # A sighting of a refused answer would say no reason.
            if old and last.state == "built":
                self._log(last, last.state, "sighting", now_us, fetched=False)
            return None
        sha256 = hashlib.sha256(body).hexdigest()
        answer = _Answer(
            "received",
            version_of(format_time(now_us), sha256, last.version if last else ""),
            sha256,
            str(BronzePath(_VENUE, self._key, sha256)),
            self._url,
            len(body),
            now_us,
            now_us,
        )
        self._writer.store.put(answer.path, body)
        self._log(answer, "received", "receive", now_us, fetched=True)
        return answer

    def _says_the_same(self, last: _Answer, body: bytes) -> bool:
        # Where bronze has lost the last one, this one takes its place.
        before = self._body(last)
        return before is not None and same_content(before, body)

    def _body(self, answer: _Answer) -> bytes | None:
        """The bytes of an answer; None where bronze has lost them."""
        try:
            body = self._writer.store.get(answer.path)
        except NotFoundError:
            return None
        return body if hashlib.sha256(body).hexdigest() == answer.sha256 else None

    def _build(self, answer: _Answer) -> None:
        """Bring an answer's changes into silver; done twice, it changes nothing the second time."""
        body = self._body(answer)
        if body is None:
            self.report.failed += 1
            self.report.note("LOST", self._key, f"{answer.path} is not what was received")
            return
        now_us = self._writer.clock.now_us()
        origin = {"source_key": self._key, "source_version": answer.version}
        try:
            info = read_exchange_info(body)
        except BadDataError as error:
            refusal = refused_answer(
                self._market, error, now_us=now_us, run_id=self.report.run_id, **origin
            )
            self._append(QUARANTINE, plain_rows(QUARANTINE, [refusal]), answer.version)
            self._log(answer, "quarantined", "build", now_us, error=error)
            self.report.quarantined += 1
            self.report.note(error.reason, self._key, error.detail)
            return
        digests = latest_digests(self._known(INSTRUMENT_STATES, KNOWN_STATES), answer.received_us)
        states = new_states(self._market, info, digests, observed_us=answer.received_us, **origin)
        self._append(INSTRUMENT_STATES, states, answer.version)
        refused = refused_records(
            self._market, info.refused, now_us=now_us, run_id=self.report.run_id, **origin
        )
        self._append(QUARANTINE, plain_rows(QUARANTINE, refused), answer.version)
        self._log(answer, "built", "build", now_us, rows=len(info.states), bad=len(refused))
        self.report.files += 1
        self.report.rows += states.height
        self.report.rows_quarantined += len(refused)
        for row in info.refused:
            self.report.note(row.reason, self._key, row.detail)

    def _list(self) -> None:
        """Note which symbols came to the archive's listing, and which left it."""
        url = self._writer.settings.binance.listing_url
        for dataset in DATASETS.values():
            freqs = [freq for freq in FREQS if freq in dataset.archive.get(self._market, ())]
            if not freqs:
                continue
            interval = "1d" if dataset.bars else None
            selection = Selection(dataset, self._market, interval)
            listed = self._writer.archive.list_symbols(selection, freqs)
            known = self._known(LISTING_SIGHTINGS, KNOWN_SIGHTINGS, dataset.name)
            rows = new_sightings(
                self._market, dataset.name, listed, known,
                seen_us=self._writer.clock.now_us(), url=url, run_id=self.report.run_id,
            )  # fmt: skip
            self._append(LISTING_SIGHTINGS, rows, "listing", dataset.name)
            self.report.rows += rows.height

    def _known(self, table: Table, columns: Sequence[str], dataset: str = "") -> pl.DataFrame:
        """Some columns of a log, of this market; times in microseconds."""
        schema = pl.Schema(
            {
                name: pl.Int64() if isinstance(kind, pl.Datetime) else kind
                for name, kind in frame_schema(table).items()
                if name in columns
            }
        )
        found = self._writer.catalog.find(table.name)
        if found is None:
            return schema.to_frame()
        where = EqualTo(term="market", value=self._market)
        chosen = tuple([*columns, "dataset"] if dataset else columns)
        try:
            frame = pl.from_arrow(found.scan(row_filter=where, selected_fields=chosen).to_arrow())
        except OSError as error:
            raise UnavailableError(f"{table.name} could not be read: {error}") from error
        assert isinstance(frame, pl.DataFrame)
        if dataset:
            frame = frame.filter(pl.col("dataset") == dataset)
        return frame.select(pl.col(name).cast(kind) for name, kind in schema.items())

    def _known_answers(self) -> list[_Answer]:
        """Every version in the ledger in its last state, in the order in which they came."""
        log = read_object_log(self._writer.catalog, self._market, INSTRUMENTS, None)
        log = log.filter(pl.col("key") == self._key)
        latest = log.group_by("version", maintain_order=True).last().sort("version")
        return [
            _Answer(
                row["state"], row["version"], row["sha256"], row["path"], row["url"], row["size"],
                row["last_modified"], row["seen_at"],
            )
            for row in latest.with_columns(
                pl.col("last_modified", "seen_at").cast(pl.Int64)
            ).iter_rows(named=True)
        ]  # fmt: skip

    def _append(self, table: Table, rows: pl.DataFrame, what: str, *partition: str) -> None:
        if rows.is_empty():
            return
        key: PartitionKey = (self._market, *(partition or _PARTITIONS.get(table.name, ())))
        name = f"{table.name} {what} {'/'.join(map(str, key))}"
        # Commas part the ids in a snapshot's summary.
        request_id = hashlib.sha256(f"{self.report.run_id} {name}".encode()).hexdigest()[:16]
        request = log_request(table, self._writer.store, rows, key, request_id)
        self._committers.commit(table, [request])
        self.report.commits += 1

    def _log(
        self,
        answer: _Answer,
        state: str,
        step: str,
        now_us: int,
        *,
        rows: int | None = None,
        bad: int | None = None,
        error: BadDataError | None = None,
        fetched: bool = False,
    ) -> None:
        event: dict[str, object] = {
            "market": self._market,
            "dataset": INSTRUMENTS,
            "symbol": "*",
            "freq": "rest",
            "period_start": answer.received_us,
            "key": self._key,
            "url": answer.url,
            "last_modified": answer.received_us,
            "size": answer.size,
            "sha256": answer.sha256,
            "version": answer.version,
            "path": answer.path,
            "state": state,
            "reason": error.reason if error else None,
            "detail": error.detail[:1000] if error else None,
            "rows": rows,
            "rows_quarantined": bad,
            "decoder_version": _READER_VERSION,
            "unit_id": step,
            "run_id": self.report.run_id,
            "seen_at": now_us,
            "fetched": fetched,
        }
        self._append(OBJECT_LOG, events([event]), f"{step} {answer.version}")


_PARTITIONS: dict[str, tuple[str, ...]] = {
    QUARANTINE.name: (INSTRUMENTS,),
    OBJECT_LOG.name: (INSTRUMENTS,),
}


def exchange_info_address(writer: Writer, market: Market) -> str:
    """Where a market's exchangeInfo is asked for."""
    binance = writer.settings.binance
    base = {"spot": binance.spot_url, "um": binance.um_url, "cm": binance.cm_url}[market]
    return exchange_info_url(market, base)
