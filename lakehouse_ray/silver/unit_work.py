"""The objects of one unit on their way into silver: opened, decoded, merged, written.

`silver.build` goes through a unit's symbols with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import polars as pl

from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange, from_us
from lakehouse_ray.model.work import ObjectResult, ObjectTask, RawObject, Unit
from lakehouse_ray.silver import large
from lakehouse_ray.silver.changes import Changes
from lakehouse_ray.silver.columns import ORIGIN, with_origin, with_sources
from lakehouse_ray.silver.coverage import day_counts, days_short
from lakehouse_ray.silver.existing import Existing
from lakehouse_ray.silver.opening import Opened, open_objects
from lakehouse_ray.silver.quarantine import Refusals
from lakehouse_ray.silver.resolve import key_of, merge_versions, resolve, with_day
from lakehouse_ray.silver.sealing import Sealed
from lakehouse_ray.sources.source import Csv, CsvFile, Decoded, ObjectDecoder
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import FileEntry
from lakehouse_ray.storage.ledger import log_request
from lakehouse_ray.storage.objects import ObjectStore

FetchMore = Callable[[Sequence[ObjectTask]], list[RawObject]]


@dataclass(frozen=True)
class Means:
    """What units are built with. csv_bytes_in_memory: Of a symbol; one with more goes by the disk."""

    store: ObjectStore
    decoder: ObjectDecoder
    csv_bytes_in_memory: int


@dataclass(frozen=True)
class Built:
    """What came of a unit.

    sealed: Of live rows that the archive's replace; to be committed before silver, which drops them.
    silver, quarantine: To be committed, silver first.
    results: One per object.
    rows: Rows whose key is new to silver.
    rows_replaced: Rows written whose key was there before.
    rows_conflicting: Rows refused since another file of their kind has the key with other values.
    """

    unit: Unit
    silver: CommitRequest
    quarantine: CommitRequest
    results: tuple[ObjectResult, ...]
    rows: int = 0
    rows_replaced: int = 0
    rows_conflicting: int = 0
    sealed: tuple[tuple[Table, CommitRequest], ...] = ()
    live_rows: int = 0
    live_rows_different: int = 0


@dataclass
class _Tally:
    results: list[ObjectResult] = field(default_factory=list)
    rows: int = 0
    rows_replaced: int = 0
    rows_conflicting: int = 0


class UnitWork:
    """One build as it goes, symbol by symbol, in their order."""

    def __init__(
        self,
        means: Means,
        dataset: Dataset,
        unit: Unit,
        seen: Sequence[FileEntry],
        fetch_more: FetchMore,
        refusals: Refusals,
        stack: ExitStack,
    ) -> None:
        """stack: Left when all symbols are added: the unit's files are complete then."""
        self._means = means
        self._dataset = dataset
        self._unit = unit
        self._table = dataset.table(unit.interval)
        self._fetch_more = fetch_more
        self._refusals = refusals
        self._seen = seen
        self._span = span_of(dataset, unit)
        self._existing = Existing(self._table, means.store, seen, self._span)
        self._changes = Changes(
            self._table,
            means.store,
            unit.market,
            unit.interval,
            self._existing,
            rules_of(dataset.name, unit.market, unit.interval),
            stack,
        )
        self._tally = _Tally()
        self._sealed = Sealed()

    def add_symbol(self, symbol: str, items: Sequence[RawObject]) -> None:
        """Merge and write one symbol's objects."""
        candidates = [
            task
            for task in self._unit.objects
            if task.symbol == symbol and task.role == "candidate"
        ]
        found = self._open(items, self._room_bytes(symbol, items, candidates))
        if found is None:
            self._add_large(symbol, items, candidates)
            return
        opened, closed = found
        if candidates:
            more, skipped = self._needed(opened, candidates)
            # Their room was set aside above.
            reopened = self._open(self._fetch_more(more) if more else (), sys.maxsize)
            assert reopened is not None, "nothing is larger than that"
            opened, closed = [*opened, *reopened[0]], [*closed, *reopened[1], *skipped]
        self._tally.results += closed
        if not opened:
            return
        opened.sort(key=lambda pair: (pair[0].task.period, pair[0].task.freq))
        results = [result for result, _ in opened]
        decoded = self._decode(symbol, opened)
        del opened
        frame, ordered = self._gather(results, decoded)
        self._merge_and_write(symbol, frame, ordered, results)
        self._tally.results += results

    def _room_bytes(
        self, symbol: str, items: Sequence[RawObject], candidates: Sequence[ObjectTask]
    ) -> int:
        """CSV bytes of these objects that fit into memory; negative where nothing does."""
        limit = self._means.csv_bytes_in_memory
        if any(item.file is not None for item in items):
            return -1
        if self._existing.count(symbol) * self._dataset.bytes_a_row > limit:
            return -1
        # Zips of this archive inflate 4 to 6 times; candidates are mostly not even fetched.
        return limit - 5 * sum(task.size for task in candidates)

    def _add_large(
        self, symbol: str, items: Sequence[RawObject], candidates: Sequence[ObjectTask]
    ) -> None:
        outcome = large.build_symbol(
            dataset=self._dataset,
            unit=self._unit,
            symbol=symbol,
            items=[*items, *(self._fetch_more(candidates) if candidates else [])],
            store=self._means.store,
            decoder=self._means.decoder,
            existing=self._existing,
            refusals=self._refusals,
            sealed=self._sealed,
            piece_bytes=max(8 << 20, self._means.csv_bytes_in_memory // 6),
        )
        self._changes.add_files(outcome.writers)
        for path, rows in outcome.dropped:
            self._changes.drop_keys(path, rows)
        self._tally.results += outcome.results
        self._tally.rows += outcome.rows
        self._tally.rows_replaced += outcome.rows_replaced

    def _open(self, items: Sequence[RawObject], room_bytes: int) -> Opened | None:
        if room_bytes < 0:
            return None
        return open_objects(
            self._means.decoder, self._dataset, self._unit, items, self._refusals, room_bytes
        )

    def _decode(self, symbol: str, opened: Sequence[tuple[ObjectResult, Csv]]) -> list[Decoded]:
        files = [
            CsvFile(result.task.key, symbol, result.task.period, csv) for result, csv in opened
        ]
        return self._means.decoder.decode(self._dataset, self._unit.market, files)

    def _needed(
        self, opened: Sequence[tuple[ObjectResult, Csv]], candidates: Sequence[ObjectTask]
    ) -> tuple[list[ObjectTask], list[ObjectResult]]:
        """Candidates whose day no monthly file covers in full, and the results of the others."""
        short: set[str] = set()
        covered: list[TimeRange] = []
        for result, csv in opened:
            if result.task.freq == "monthly":
                (decoded,) = self._decode(result.task.symbol, [(result, csv)])
                short |= set(self._days_short(result.task.period, decoded.frame))
                covered.append(result.task.period)
        more, skipped = [], []
        for task in candidates:
            day = f"{from_us(task.period.start_us):%Y-%m-%d}"
            inside = any(period.contains(task.period) for period in covered)
            if inside and day not in short:
                skipped.append(ObjectResult(task, "skipped"))
            else:
                more.append(replace(task, role="fetch"))
        return more, skipped

    def _days_short(self, period: TimeRange, frame: pl.DataFrame) -> list[str]:
        counts = day_counts(self._dataset, frame)
        return days_short(self._dataset, self._unit.interval, period, counts)

    def _gather(
        self, results: list[ObjectResult], decoded: Sequence[Decoded]
    ) -> tuple[pl.DataFrame, bool]:
        """One frame of all objects, with their numbers if they are several; fills in what the results
        lack."""
        frames = []
        at = 0
        for part in decoded:
            numbers = range(at, at + len(part.rows))
            several = len(results) > 1
            frames.append(with_origin(part.frame, numbers, part.rows) if several else part.frame)
            for number, rows, bad, duplicates in zip(
                numbers, part.rows, part.bad, part.duplicates, strict=True
            ):
                result = results[number]
                if bad:
                    self._refusals.refuse_rows(result, bad)
                results[number] = replace(
                    result, rows=rows, rows_quarantined=len(bad), duplicates=duplicates
                )
            at += len(part.rows)
        frame = frames[0] if len(frames) == 1 else pl.concat(frames)
        for number, result in enumerate(results):
            if result.task.freq == "monthly":
                # Usually it is the only one.
                own = frame
                if len(results) > 1:
                    own = own.select(self._dataset.time, ORIGIN).filter(pl.col(ORIGIN) == number)
                short = self._days_short(result.task.period, own)
                results[number] = replace(result, days_short=",".join(short))
        return frame, len(decoded) == 1 and decoded[0].ordered

    def _merge_and_write(
        self,
        symbol: str,
        frame: pl.DataFrame,
        ordered: bool,
        results: Sequence[ObjectResult],
    ) -> None:
        key = key_of(self._dataset)
        if ordered and symbol not in self._existing:
            self._changes.write(symbol, frame, results)
            self._tally.rows += frame.height
            return
        new = with_day(with_sources(frame, results), self._dataset)
        new, conflicts = resolve(new, key)
        self._refuse(symbol, conflicts)
        if symbol not in self._existing:
            self._changes.write(symbol, new.sort(self._table.sort[1:]), results)
            self._tally.rows += new.height
            return
        existing = with_day(self._existing.rows(symbol), self._dataset)
        existing = existing.select(*new.columns, "_file")
        versions = pl.DataFrame(
            [(r.task.key, r.version) for r in results],
            schema={"source_key": pl.String, "source_version": pl.String},
            orient="row",
        )
        outcome = merge_versions(new, existing, key, versions)
        self._refuse(symbol, outcome.conflicts)
        self._changes.write(symbol, outcome.added.sort(self._table.sort[1:]), results)
        self._tally.rows += outcome.fresh
        self._tally.rows_replaced += outcome.added.height - outcome.fresh
        self._changes.drop(symbol, outcome.dropped)
        self._sealed.compare(self._dataset, symbol, outcome.dropped, outcome.added, key)

    def _refuse(self, symbol: str, conflicts: pl.DataFrame) -> None:
        if conflicts.height:
            self._refusals.refuse_conflicts(symbol, conflicts)
            self._tally.rows_conflicting += conflicts.height

    def rewrite_files(self) -> None:
        """Copy every file that holds dropped rows without them."""
        self._changes.rewrite_files()

    def built(self) -> Built:
        unit = self._unit
        silver = self._changes.request(unit.id, unit.symbols, self._span, self._seen)
        quarantine = CommitRequest(unit.id, ())
        if len(self._refusals):
            quarantine = log_request(
                QUARANTINE,
                self._means.store,
                self._refusals.frame(),
                (unit.market, unit.dataset),
                unit.id,
            )
        return Built(
            unit,
            silver,
            quarantine,
            tuple(self._tally.results),
            self._tally.rows,
            self._tally.rows_replaced,
            self._tally.rows_conflicting,
            self._sealed.requests(
                self._means.store,
                self._dataset,
                unit.market,
                unit.interval,
                unit.id,
                run_id=self._refusals.run_id,
                now_us=self._refusals.now_us,
            ),
            self._sealed.rows,
            self._sealed.rows_different,
        )


def span_of(dataset: Dataset, unit: Unit) -> TimeRange:
    """Times that rows of a unit can have. The end counts in: without slack, the last instant."""
    span = unit.span
    return TimeRange(span.start_us, span.end_us + dataset.slack_us - 1)
