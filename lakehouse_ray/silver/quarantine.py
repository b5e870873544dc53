"""Rows and objects that were refused, as rows of the quarantine log."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.work import ObjectResult
from lakehouse_ray.silver.resolve import SOURCE_NAMES
from lakehouse_ray.sources.source import BadRow
from lakehouse_ray.storage.frames import frame_schema

# One object can fill the log with no more than this; the rest is counted in the last row's detail.
ROWS_PER_OBJECT_MAX = 10_000


class Refusals:
    """What was refused of one data set, market and interval."""

    def __init__(
        self, market: str, dataset: str, interval: str | None, run_id: str, now_us: int
    ) -> None:
        self._market = market
        self._dataset = dataset
        self._interval = interval
        self.run_id = run_id
        self.now_us = now_us
        self._rows: list[dict[str, object]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def refuse_object(self, result: ObjectResult) -> None:
        self._add(result, None, result.reason, result.detail, None)

    def refuse_rows(self, result: ObjectResult, rows: Iterable[BadRow]) -> None:
        refused = list(rows)
        for row in refused[:ROWS_PER_OBJECT_MAX]:
            self._add(result, row.line, row.reason, row.detail, row.raw)
        if len(refused) > ROWS_PER_OBJECT_MAX:
            more = len(refused) - ROWS_PER_OBJECT_MAX
            self._add(result, None, "MORE_BAD_ROWS", f"{more:,} more rows were refused", None)

    def refuse_conflicts(
        self,
        symbol: str,
        conflicts: pl.DataFrame,
        detail: str = "another file of the same kind has the key with other values",
    ) -> None:
        """Rows that share their key with another, by default one of another file that won."""
        conflicts = conflicts.with_columns(symbol=pl.lit(symbol))
        self.refuse_frame(conflicts, "CONFLICTING_KEY", detail)

    def refuse_frame(self, rows: pl.DataFrame, reason: str, detail: str) -> None:
        """Rows that came with their symbol and the names of their sources."""
        said = {"market", "symbol", "interval", *SOURCE_NAMES}
        for row in rows.iter_rows(named=True):
            values = {k: v for k, v in row.items() if k not in said and not k.startswith("_")}
            self._rows.append(
                {
                    **self._common(row["symbol"]),
                    "source": row["source"],
                    "source_key": row["source_key"],
                    "source_version": row["source_version"],
                    "line": None,
                    "reason": reason,
                    "detail": detail,
                    "raw": ",".join(f"{k}={v}" for k, v in values.items())[:1000],
                }
            )

    def frame(self) -> pl.DataFrame:
        schema = frame_schema(QUARANTINE)
        time = pl.Datetime("us", "UTC")
        plain = pl.Schema({n: pl.Int64() if t == time else t for n, t in schema.items()})
        return pl.DataFrame(self._rows, schema=plain, orient="row").cast(schema)

    def _common(self, symbol: str) -> dict[str, object]:
        return {
            "market": self._market,
            "dataset": self._dataset,
            "symbol": symbol,
            "interval": self._interval,
            "run_id": self.run_id,
            "quarantined_at": self.now_us,
        }

    def _add(
        self, result: ObjectResult, line: int | None, reason: str, detail: str, raw: str | None
    ) -> None:
        self._rows.append(
            {
                **self._common(result.task.symbol),
                "source": result.task.freq,
                "source_key": result.task.key,
                "source_version": result.version or None,
                "line": line,
                "reason": reason,
                "detail": detail[:1000],
                "raw": raw,
            }
        )
