"""From a segment's work to snapshots: bronze, rows, gaps, refusals, state; the ledger now and then.

Whoever dies in between repeats the segment behind the same state: the object has the same bytes,
requests are known by their ids, and rows that are there twice all the same count once by their keys.
Ids are made of what a segment says, not of its number alone: a spool whose state is lost, or an older
one that was restored, begins to count anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.commits import Committers
from lakehouse_ray.pipeline.hot_rows import HotWriter, hot_tables_of
from lakehouse_ray.pipeline.stream_state import WorkerState, save_state
from lakehouse_ray.silver.stream_aside import REASON
from lakehouse_ray.silver.stream_segment import CaptureState, SegmentWork
from lakehouse_ray.sources.binance.streams.decode import VERSION
from lakehouse_ray.sources.binance.streams.names import Stream
from lakehouse_ray.storage.ledger import events, log_request, plain_rows
from lakehouse_ray.storage.paths import BronzePath

VENUE = "binance"
# Refused frames tell no data set: they stand in the quarantine under this name.
STREAMS = "streams"
# A row of the ledger may wait for others; its segment is in bronze and in the state meanwhile.
LEDGER_INTERVAL_S = 10.0


@dataclass
class CaptureTally:
    """What was committed."""

    segments: int = 0
    frames: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    gaps: int = 0
    missing: int = 0
    duplicates: int = 0
    late: int = 0
    refused: int = 0
    losses: int = 0
    bronze_bytes: int = 0
    last_received_us: int = 0
    set_aside: int = 0


def tables_of_capture(streams: Iterable[Stream]) -> tuple[Table, ...]:
    """Tables whose committers a capture needs."""
    datasets = {stream.dataset for stream in streams}
    tables = hot_tables_of(DATASETS[name] for name in sorted(datasets))
    return (
        *dict.fromkeys(tables),
        *(t for t in (QUARANTINE, OBJECT_LOG, STREAM_GAPS) if t not in tables),
    )


class SegmentCommits:
    """Commits the segments of one worker, one after the other.

    folder: Of the worker's spool; its state is kept there. name: Of the capture and the worker,
        letters, digits and hyphens. url: Where the frames came from.
    """

    def __init__(
        self,
        writer: Writer,
        committers: Committers,
        *,
        market: Market,
        folder: Path,
        name: str,
        run_id: str,
        url: str,
        state: WorkerState,
    ) -> None:
        self._writer = writer
        self._committers = committers
        self._rows = HotWriter(writer, committers, run_id)
        self._market = market
        self._folder = folder
        self._name = name
        self._run_id = run_id
        self._url = url
        self.state = state
        self._logged_s = writer.clock.monotonic_s()
        self.tally = CaptureTally()

    def commit(self, work: SegmentWork, after: CaptureState) -> None:
        """Make a segment visible and remember that it is. Safe to repeat with the same segment."""
        received_us = work.received_us
        day = format_time(received_us)[:10]
        path = BronzePath(
            VENUE, f"stream/{self._market}/{day}/{self._name}-{work.number}", work.sha256
        )
        self._writer.store.put(str(path), work.body)
        self._rows.append(work.rows, f"{self._name}-{_named(work)}")
        self._append_gaps(work)
        self._append_refusals(work)
        now_us = self._writer.clock.now_us()
        rows = {name: frame.height for name, frame in work.rows.items()}
        # Also of a segment without rows: its bytes are accounted for.
        for name in rows or {STREAMS: 0}:
            self.state.unlogged.append(
                self._event(work, str(path), name, rows.get(name, 0), now_us)
            )
        self.state.capture = after
        self._save(now_us)
        self._count(work, rows)
        if self._writer.clock.monotonic_s() - self._logged_s >= LEDGER_INTERVAL_S:
            self.write_ledger()

    def write_ledger(self) -> None:
        """Commit the rows of the ledger that wait."""
        self._logged_s = self._writer.clock.monotonic_s()
        by_dataset: dict[str, list[dict[str, Any]]] = {}
        for row in self.state.unlogged:
            by_dataset.setdefault(row["dataset"], []).append(row)
        if not by_dataset:
            return
        for name, rows in by_dataset.items():
            what = f"{rows[0]['version']} to {rows[-1]['version']}"
            self._append(OBJECT_LOG, events(rows), name, what)
        self.state.unlogged = []
        self._save(self._writer.clock.now_us())

    def _append_gaps(self, work: SegmentWork) -> None:
        by_dataset: dict[str, list[dict[str, object]]] = {}
        for stream, gap, why in work.gaps:
            row: dict[str, object] = {
                "market": self._market,
                "dataset": stream.dataset,
                "symbol": stream.symbol,
                "interval": stream.interval or "",
                "first_id": gap.first,
                "last_id": gap.last,
                "start_time": gap.start_us,
                "end_time": gap.end_us,
                "missing": gap.missing,
                "why": why,
                "run_id": self._run_id,
                "found_at": gap.found_us,
            }
            by_dataset.setdefault(stream.dataset, []).append(row)
        for name, rows in by_dataset.items():
            self._append(STREAM_GAPS, plain_rows(STREAM_GAPS, rows), name, _named(work))

    def _append_refusals(self, work: SegmentWork) -> None:
        if not work.refusals:
            return
        now_us = self._writer.clock.now_us()
        rows: list[dict[str, object]] = [
            {
                "market": self._market,
                "dataset": STREAMS,
                "symbol": refusal.symbol,
                "source": "stream",
                # The whole object is named as the ledger names it.
                "source_key": f"stream/{self._market}"
                + (f"/{STREAMS}" if refusal.line is None else ""),
                "source_version": work.version,
                "line": refusal.line,
                "reason": refusal.reason,
                "detail": refusal.detail,
                "raw": refusal.raw,
                "run_id": self._run_id,
                "quarantined_at": now_us,
            }
            for refusal in work.refusals
        ]
        more = work.refused - len(rows)
        if more:
            rows[-1]["detail"] = f"{rows[-1]['detail']}; and {more:,} more frames were refused"
        self._append(QUARANTINE, plain_rows(QUARANTINE, rows), STREAMS, _named(work))

    def _event(
        self, work: SegmentWork, path: str, dataset: str, rows: int, now_us: int
    ) -> dict[str, Any]:
        return {
            "market": self._market,
            "dataset": dataset,
            "symbol": "*",
            "freq": "stream",
            "period_start": work.received_us,
            "key": f"stream/{self._market}/{dataset}",
            "url": self._url,
            "last_modified": work.received_us,
            "size": len(work.body),
            "sha256": work.sha256,
            "version": work.version,
            "path": path,
            "state": "quarantined" if work.set_aside else "received",
            "reason": REASON if work.set_aside else None,
            "detail": work.set_aside or None,
            "rows": rows,
            "rows_quarantined": work.refused,
            "decoder_version": VERSION,
            "unit_id": f"{self._name}-{work.number}",
            "run_id": self._run_id,
            "seen_at": now_us,
            "fetched": True,
        }

    def _append(self, table: Table, rows: pl.DataFrame, dataset: str, what: str) -> None:
        named = f"{self._run_id} {self._name} {table.name} {dataset} {what}"
        request_id = hashlib.sha256(named.encode()).hexdigest()[:16]
        partition = (self._market, dataset)
        request = log_request(table, self._writer.store, rows, partition, request_id)
        self._committers.commit(table, [request])

    def _save(self, now_us: int) -> None:
        self.state.saved_us = now_us
        save_state(self._folder, self.state)

    def _count(self, work: SegmentWork, rows: Mapping[str, int]) -> None:
        tally = self.tally
        tally.segments += 1
        tally.frames += work.frames
        for name, count in rows.items():
            tally.rows[name] = tally.rows.get(name, 0) + count
        tally.gaps += len(work.gaps)
        tally.missing += sum(gap.missing or 0 for _, gap, _ in work.gaps)
        tally.duplicates += work.duplicates
        tally.late += work.late
        tally.refused += work.refused
        tally.losses += len(work.losses)
        tally.bronze_bytes += len(work.body)
        tally.last_received_us = work.received_us
        tally.set_aside += bool(work.set_aside)


def _named(work: SegmentWork) -> str:
    return f"{work.number}-{work.sha256[:16]}"
