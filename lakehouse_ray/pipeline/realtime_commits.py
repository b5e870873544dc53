"""From answers in bronze to silver, and what the ledger says meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import BadDataError, NotFoundError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import SECOND_US, to_us
from lakehouse_ray.model.venue import Market, parse_market
from lakehouse_ray.pipeline.asked_before import settled_part, told_asked
from lakehouse_ray.pipeline.commits import Committers, open_committers
from lakehouse_ray.pipeline.realtime_report import UpdateReport
from lakehouse_ray.pipeline.realtime_work import AskedUnit, Ended
from lakehouse_ray.pipeline.row_merging import RowMerger, tables_of
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.silver.quarantine import ROWS_PER_OBJECT_MAX
from lakehouse_ray.silver.resolve import key_of, with_day
from lakehouse_ray.silver.rows_work import rows_schema
from lakehouse_ray.sources.binance.rest import REST_READER_VERSION, read_again
from lakehouse_ray.sources.rest import Rows
from lakehouse_ray.sources.source import BadRecord
from lakehouse_ray.storage.answers import Kept, Pack, open_pack
from lakehouse_ray.storage.ledger import events, log_request, plain_rows, read_object_log
from lakehouse_ray.telemetry.meter import add
from lakehouse_ray.telemetry.metrics import ROWS, ROWS_REFUSED, SOURCE_BYTES


@dataclass(frozen=True)
class LeftOver:
    """Answers that an earlier run left in bronze, of one pack."""

    market: Market
    dataset: str
    interval: str | None
    pack: Pack
    rows: Sequence[dict[str, object]]


def open_fill_committers(
    writer: Writer, datasets: Iterable[tuple[str, str | None]], run_id: str, *, local: bool
) -> AbstractContextManager[Committers]:
    """Committers of the tables that fills of these data sets write."""
    tables: dict[str, Table] = {OBJECT_LOG.name: OBJECT_LOG}
    for name, _ in datasets:
        tables |= {table.name: table for table in tables_of(find_dataset(name))}
    return open_committers(writer, tables.values(), run_id, local=local)


def left_over(writer: Writer, asked: Asked) -> list[LeftOver]:
    """Answers in bronze of which the ledger does not say what became of them.

    Or no longer: a repair tells the ledger once more that they were received.
    """
    dataset = asked.dataset.name if asked.dataset is not None else None
    log = read_object_log(writer.catalog, asked.market, dataset, freq="rest")
    same = ["market", "dataset", "key", "version", "unit_id"]
    received = log.filter(state="received").group_by(same, maintain_order=True).last()
    ended = log.filter(pl.col("state") != "received").group_by(same)
    left = (
        received.join(ended.agg(_ended=pl.col("seen_at").max()), on=same, how="left")
        .filter(pl.col("_ended").is_null() | (pl.col("seen_at") > pl.col("_ended")))
        .select(log.columns)
    )
    found: list[LeftOver] = []
    series = ["market", "dataset", "path", "interval"]
    for part in left.sort(series, maintain_order=True).partition_by(series, maintain_order=True):
        rows = part.rows(named=True)
        first = rows[0]
        pack = Pack(first["path"], first["sha256"], first["size"], to_us(first["last_modified"]))
        market = parse_market(first["market"])
        found.append(LeftOver(market, first["dataset"], first["interval"], pack, rows))
    return found


@dataclass
class _Batch:
    """Rows and ledger rows of one data set, on their way."""

    dataset: Dataset
    market: Market
    frames: list[pl.DataFrame] = field(default_factory=list)
    refused: list[dict[str, object]] = field(default_factory=list)
    received: list[dict[str, object]] = field(default_factory=list)
    ended: list[dict[str, object]] = field(default_factory=list)


class FillCommits:
    """Makes silver of the answers of finished units. Not for several threads."""

    def __init__(self, writer: Writer, committers: Committers, report: UpdateReport) -> None:
        self._writer = writer
        self._committers = committers
        self._report = report
        self._merger = RowMerger(writer, committers, report.run_id)

    def commit(self, batch: list[AskedUnit]) -> list[AskedUnit]:
        """Ledger, silver, quarantine, ledger: in this order. Nothing has to be done again."""
        found: dict[tuple[str, Market], _Batch] = {}
        for asked in batch:
            if asked.pack is None:
                self._unanswered(asked.ended)
                continue
            by_fill = {one.fill: one for one in asked.ended}
            kinds = {one.fill: one.kind for one in asked.unit.fills}
            packed = open_pack(self._writer.store, asked.pack.path, asked.pack.sha256)
            for kept in packed:
                ended, kind = by_fill.pop(kept.fill, None), kinds.get(kept.fill, "")
                self._add(found, kept, asked.pack, ended, kind)
            self._unanswered(by_fill.values())
            self._report.bytes += asked.pack.size
            for one in asked.ended[:1]:  # a unit is of one market and data set
                add(SOURCE_BYTES, asked.pack.size, "update", one.fill.market, one.fill.dataset)
        self._write(found.values())
        return []

    def resume(self, left: Iterable[LeftOver]) -> None:
        """Make silver of answers that an earlier run left."""
        found: dict[tuple[str, Market], _Batch] = {}
        for one in left:
            named = {(str(row["key"]), str(row["unit_id"])) for row in one.rows}
            try:
                pack = open_pack(self._writer.store, one.pack.path, one.pack.sha256)
            except (BadDataError, NotFoundError) as error:
                self._lose(found, one, str(error))
                continue
            for kept in pack:
                if (kept.fill.source_key, _unit_id(kept.fill)) in named:
                    self._add(found, kept, one.pack, None, resumed=True)
        self._write(found.values())

    def _add(
        self,
        found: dict[tuple[str, Market], _Batch],
        kept: Kept,
        pack: Pack,
        ended: Ended | None,
        kind: str = "",
        *,
        resumed: bool = False,
    ) -> None:
        fill = kept.fill
        dataset = find_dataset(fill.dataset)
        batch = found.setdefault((fill.dataset, fill.market), _Batch(dataset, fill.market))
        # What was refused when it was asked for is refused again by what is kept of it: a fill that
        # an earlier run did not end is asked for anew, as its rows may be not all of them.
        reason, detail = (ended.reason, ended.detail) if ended else ("", "")
        try:
            rows = read_again(fill, kept.answers)
        except BadDataError as error:
            rows, reason, detail = Rows(), error.reason, error.detail
        # What was asked for again came again.
        bad = list({(row.reason, row.raw): row for row in rows.bad}.values())
        frame = framed(fill, dataset, rows, pack.version)
        if frame.height:
            batch.frames.append(frame)
        report = self._report
        report.requests += len(kept.answers)
        report.left_open += rows.left_open
        report.rows_quarantined += len(bad)
        report.absent_seconds += sum(s.end_us - s.start_us for s in rows.absent) // SECOND_US
        report.notes.update(rows.notes)
        report.resumed += int(resumed)
        whole = not reason and not resumed and not rows.left_open and not bad
        if whole or resumed:
            report.fills += 1
        if reason:
            self._give_up(fill, reason, detail)
        batch.refused += [
            _refusal(fill, pack.version, row, report.run_id, self._writer.clock.now_us())
            for row in bad[:ROWS_PER_OBJECT_MAX]
        ]
        if reason and reason != "UNAVAILABLE":
            record = BadRecord(0, reason, detail, "", fill.symbol)
            batch.refused.append(
                _refusal(fill, pack.version, record, report.run_id, self._writer.clock.now_us())
            )
        # Only refusals of the series as a whole end it; what came before one stays.
        state = "quarantined" if reason and not kept.answers else "built"
        told = self._asked(fill, rows, kind) if whole else (detail or None)
        event = self._event(kept, pack, len(bad), frame.height)
        batch.received.append({**event, "state": "received", "detail": None})
        batch.ended.append({**event, "state": state, "reason": reason or None, "detail": told})

    def _asked(self, fill: Fill, rows: Rows, kind: str) -> str | None:
        """What is not to be asked for again. Gaps of streams are told to be absent by themselves."""
        if kind == "stream_gap":
            return told_asked(fill)
        again_us = int(self._writer.settings.update.absent_again_s * 1e6)
        part = settled_part(fill, rows, again_us)
        return told_asked(part) if part is not None else None

    def _lose(self, found: dict[tuple[str, Market], _Batch], left: LeftOver, detail: str) -> None:
        """Say that answers are gone: what they were for is asked for again."""
        self._report.failed += 1
        self._report.note("LOST", left.pack.path, detail)
        where = left.dataset, left.market
        batch = found.setdefault(where, _Batch(find_dataset(left.dataset), left.market))
        told = {"state": "quarantined", "reason": "LOST", "detail": detail[:1000]}
        now_us = self._writer.clock.now_us()
        for row in left.rows:
            times = {name: to_us(row[name]) for name in ("period_start", "last_modified")}  # type: ignore[arg-type]
            batch.ended.append({**row, **times, **told, "run_id": self._report.run_id})
            batch.refused.append(
                {
                    **{name: row[name] for name in ("market", "dataset", "symbol", "interval")},
                    "source": "rest", "source_key": row["key"], "source_version": row["version"],
                    "reason": "LOST", "detail": detail[:1000], "run_id": self._report.run_id,
                    "quarantined_at": now_us,
                }
            )  # fmt: skip

    def _unanswered(self, ended: Iterable[Ended]) -> None:
        for one in ended:
            self._give_up(one.fill, one.reason or "UNAVAILABLE", one.detail)

    def _give_up(self, fill: Fill, reason: str, detail: str) -> None:
        if reason == "UNAVAILABLE":
            self._report.failed += 1
        else:
            self._report.refused += 1
        self._report.note(reason, fill.source_key, f"{detail} {fill.span}")

    def _write(self, batches: Iterable[_Batch]) -> None:
        work = list(batches)
        for batch in work:
            self._log(batch, batch.received, "received")
        for batch in work:
            if batch.frames:
                self._merge(batch)
            self._refuse(batch)
        for batch in work:
            self._log(batch, batch.ended, "ended")

    def _merge(self, batch: _Batch) -> None:
        merged = self._merger.report
        before = merged.rows, merged.rows_replaced, merged.rows_known, merged.rows_refused
        commits, conflicts = merged.commits, merged.conflicts
        self._merger.merge(batch.dataset, pl.concat(batch.frames))
        report = self._report
        report.rows += merged.rows - before[0]
        of = "update", batch.market, batch.dataset.name
        add(ROWS, merged.rows - before[0], *of)
        add(ROWS_REFUSED, merged.rows_refused - before[3], *of)
        report.rows_replaced += merged.rows_replaced - before[1]
        report.rows_known += merged.rows_known - before[2]
        report.rows_quarantined += merged.rows_refused - before[3]
        report.commits += merged.commits - commits
        report.conflicts += merged.conflicts - conflicts

    def _refuse(self, batch: _Batch) -> None:
        if batch.refused:
            self._append(QUARANTINE, plain_rows(QUARANTINE, batch.refused), batch, "refused")

    def _log(self, batch: _Batch, rows: list[dict[str, object]], step: str) -> None:
        now_us = self._writer.clock.now_us()
        told = [{**row, "seen_at": now_us, "fetched": step == "received"} for row in rows]
        self._append(OBJECT_LOG, events(told), batch, step)

    def _append(self, table: Table, rows: pl.DataFrame, batch: _Batch, step: str) -> None:
        if rows.is_empty():
            return
        where = (batch.market, batch.dataset.name)
        name = f"{self._report.run_id} {table.name} {step} {where} {rows.hash_rows().sum()}"
        request_id = hashlib.sha256(name.encode()).hexdigest()[:16]
        request = log_request(table, self._writer.store, rows, where, request_id)
        self._committers.commit(table, [request])
        self._report.commits += 1

    def _event(self, kept: Kept, pack: Pack, bad: int, height: int) -> dict[str, object]:
        fill = kept.fill
        first = kept.answers[0] if kept.answers else kept.spoiled
        return {
            "market": fill.market,
            "dataset": fill.dataset,
            "symbol": fill.symbol,
            "interval": fill.interval,
            "freq": "rest",
            "period_start": pack.received_us,
            "key": fill.source_key,
            "url": first.url if first else self._writer.rest_bases[fill.market],
            "last_modified": pack.received_us,
            "size": pack.size,
            "sha256": pack.sha256,
            "version": pack.version,
            "path": pack.path,
            "rows": height,
            "rows_quarantined": bad,
            "decoder_version": REST_READER_VERSION,
            "unit_id": _unit_id(fill),
            "run_id": self._report.run_id,
        }


def framed(fill: Fill, dataset: Dataset, rows: Rows, version: str) -> pl.DataFrame:
    """The rows of a fill as tables want them: each once, with whose and where from."""
    schema = rows_schema(dataset)
    if not rows.frames:
        return schema.to_frame()
    # A row that came twice came the second time because it was asked for again, and may have been
    # corrected between.
    whole = with_day(pl.concat(rows.frames), dataset)
    frame = whole.unique(key_of(dataset), keep="last", maintain_order=True)
    names = {
        "market": fill.market,
        "symbol": fill.symbol,
        "interval": fill.interval,
        "source": "rest",
        "source_key": fill.source_key,
        "source_version": version,
    }
    named = frame.with_columns(
        pl.lit(value, dtype=pl.String).alias(name)
        for name, value in names.items()
        if name in schema.names()
    )
    return named.select(pl.col(name).cast(kind) for name, kind in schema.items())


def _unit_id(fill: Fill) -> str:
    """Names a fill among those of its series."""
    text = f"{fill.source_key} {fill.span} {fill.asked_us}"
    if fill.ids is not None:
        text += f" {fill.ids[0]} to {fill.ids[1]}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _refusal(
    fill: Fill, version: str, row: BadRecord, run_id: str, now_us: int
) -> dict[str, object]:
    return {
        "market": fill.market,
        "dataset": fill.dataset,
        "symbol": fill.symbol,
        "interval": fill.interval,
        "source": "rest",
        "source_key": fill.source_key,
        "source_version": version,
        "line": row.line or None,
        "reason": row.reason,
        "detail": row.detail[:1000],
        "raw": row.raw or None,
        "run_id": run_id,
        "quarantined_at": now_us,
    }
