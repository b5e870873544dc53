"""From finished units of an ingestion to snapshots: silver, then quarantine, then the ledger."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.plan import Plan
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.work import ObjectResult, Unit
from lakehouse_ray.pipeline.commits import Committers
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.silver.unit_work import Built
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import events, log_request


class IngestCommits:
    """Commits units of one plan, and writes down what became of their objects."""

    def __init__(
        self,
        writer: Writer,
        committers: Committers,
        plan: Plan,
        run_id: str,
        report: IngestReport,
        on_committed: Callable[[Built], None],
    ) -> None:
        self._writer = writer
        self._committers = committers
        self._plan = plan
        self._table = plan.dataset.table(plan.interval)
        self._run_id = run_id
        self._report = report
        self._on_committed = on_committed

    def note_sightings(self, objects: pl.DataFrame) -> None:
        """Write down that objects are still listed as they were."""
        now_us = self._writer.clock.now_us()
        schema = frame_schema(OBJECT_LOG)
        time = pl.Datetime("us", "UTC")
        rows = objects.select(
            pl.lit(self._plan.market).alias("market"),
            pl.lit(self._plan.dataset.name).alias("dataset"),
            "symbol",
            pl.lit(self._plan.interval, dtype=pl.String).alias("interval"),
            "freq",
            pl.col("period_start").cast(time),
            "key",
            pl.lit("").alias("url"),
            "etag",
            "checksum_etag",
            pl.col("last_modified").cast(time),
            "size",
            pl.col("built_sha256").alias("published_sha256"),
            pl.col("built_sha256").alias("sha256"),
            pl.col("built_version").alias("version"),
            pl.col("built_path").alias("path"),
            pl.lit("built").alias("state"),
            pl.lit(None, dtype=pl.String).alias("reason"),
            pl.lit(None, dtype=pl.String).alias("detail"),
            "days_short",
            pl.lit(None, dtype=pl.Int64).alias("rows"),
            pl.lit(None, dtype=pl.Int64).alias("rows_quarantined"),
            pl.col("built_decoder").alias("decoder_version"),
            pl.lit("sighting").alias("unit_id"),
            pl.lit(self._run_id).alias("run_id"),
            pl.lit(now_us).cast(time).alias("seen_at"),
            pl.lit(False).alias("fetched"),
        ).cast(schema)
        self._append_events(rows, f"{self._run_id}-sightings")

    def commit(self, batch: list[Built]) -> list[Built]:
        """Commit units; returns those that another writer came before."""
        self._committers.commit_sealed(built.sealed for built in batch)
        outcomes = self._committers.commit(self._table, [built.silver for built in batch])
        committed = [b for b, o in zip(batch, outcomes, strict=True) if o.committed]
        conflicts = [b for b, o in zip(batch, outcomes, strict=True) if not o.committed]
        for built in conflicts:
            self._committers.forget(built.silver)
            self._committers.forget(built.quarantine)
        refusals = [b.quarantine for b in committed if not b.quarantine.empty]
        if refusals:
            self._committers.commit(QUARANTINE, refusals)
        now_us = self._writer.clock.now_us()
        rows = [
            self._event(result, built.unit, now_us)
            for built in committed
            for result in built.results
            if result.state in ("built", "quarantined")
        ]
        if rows:
            self._append_events(events(rows), committed[0].unit.id)
        self._report.commits += 1
        for built in committed:
            self._report.rows += built.rows
            self._report.rows_replaced += built.rows_replaced
            self._report.live_rows += built.live_rows
            self._report.live_rows_different += built.live_rows_different
            self._report.conflicting(built.rows_conflicting, built.unit.objects[0].key)
            for result in built.results:
                self._report.count(result)
            self._on_committed(built)
        self._report.conflicts += len(conflicts)
        return conflicts

    def _append_events(self, rows: pl.DataFrame, request_id: str) -> None:
        partition = (self._plan.market, self._plan.dataset.name)
        request = log_request(OBJECT_LOG, self._writer.store, rows, partition, request_id)
        self._committers.commit(OBJECT_LOG, [request])

    def _event(self, result: ObjectResult, unit: Unit, now_us: int) -> dict[str, object]:
        task = result.task
        return {
            "market": unit.market,
            "dataset": unit.dataset,
            "symbol": task.symbol,
            "interval": unit.interval,
            "freq": task.freq,
            "period_start": task.period.start_us,
            "key": task.key,
            "url": result.url,
            # Of the bytes received: where a cache gave old ones, the next listing tells so.
            "etag": result.etag,
            "checksum_etag": task.checksum_etag,
            "last_modified": result.last_modified_us,
            "size": result.size,
            "published_sha256": result.published_sha256 or None,
            "sha256": result.sha256 or None,
            "version": result.version or None,
            "path": result.path or None,
            "state": result.state,
            "reason": result.reason or None,
            "detail": result.detail[:1000] or None,
            "days_short": result.days_short or None,
            "rows": result.rows,
            "rows_quarantined": result.rows_quarantined,
            "decoder_version": self._writer.decoder.version,
            "unit_id": unit.id,
            "run_id": self._run_id,
            "seen_at": now_us,
            "fetched": task.role != "stored",
        }
