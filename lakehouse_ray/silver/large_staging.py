"""A large symbol's rows as pieces on a local disk, before they go to the table or are merged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.work import ObjectResult, RawObject, Unit
from lakehouse_ray.silver.columns import ORIGIN, with_origin
from lakehouse_ray.silver.coverage import day_counts, days_short
from lakehouse_ray.silver.existing import Existing
from lakehouse_ray.silver.quarantine import Refusals
from lakehouse_ray.silver.resolve import with_day
from lakehouse_ray.sources.source import ObjectDecoder
from lakehouse_ray.storage.objects import ObjectStore


@dataclass(frozen=True)
class Context:
    """Whose rows they are. folder: Of the pieces, on a local disk."""

    dataset: Dataset
    unit: Unit
    symbol: str
    store: ObjectStore
    folder: Path

    @property
    def constants(self) -> dict[str, str]:
        named = {"market": self.unit.market, "symbol": self.symbol}
        if self.unit.interval is not None:
            named["interval"] = self.unit.interval
        return named


class Staged:
    """Decoded pieces on disk, and whether they are in strict order."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.objects: list[ObjectResult] = []
        self.pieces: list[Path] = []
        self.ordered = True
        self._last: tuple[Any, Any] | None = None
        # Of each object: rows by day, and keys of which a piece has refused rows.
        self.days: list[Counter[date]] = []
        self.clashing: list[pl.DataFrame] = []

    def add(
        self, item: RawObject, decoder: ObjectDecoder, refusals: Refusals, piece_bytes: int
    ) -> ObjectResult | None:
        """Decode one object; nothing of it stays where it cannot be read to its end.

        Returns the refusal, or None where the object is among `objects`.
        """
        context, result = self._context, item.result
        task = result.task
        file = item.file
        if file is None:
            assert item.data is not None
            file = context.folder / "object.zip"
            file.write_bytes(item.data)
        before = (len(self.pieces), self._last, self.ordered)
        number = len(self.objects)
        rows = bad = duplicates = 0
        days: Counter[date] = Counter()
        clashing: list[pl.DataFrame] = []
        try:
            for decoded in decoder.decode_pieces(
                context.dataset, context.unit.market, task.key, task.symbol, task.period, file,
                piece_bytes,
            ):  # fmt: skip
                if decoded.bad[0]:
                    refusals.refuse_rows(result, decoded.bad[0])
                    bad += len(decoded.bad[0])
                duplicates += decoded.duplicates[0]
                rows += decoded.frame.height
                days.update(day_counts(context.dataset, decoded.frame))
                if decoded.clashing is not None:
                    clashing.append(decoded.clashing.with_columns(pl.lit(number).alias(ORIGIN)))
                self._keep(
                    with_origin(decoded.frame, [number], [decoded.frame.height]), decoded.ordered
                )
        except BadDataError as error:
            for piece in self.pieces[before[0] :]:
                piece.unlink()
            del self.pieces[before[0] :]
            _, self._last, self.ordered = before
            refused = replace(result, state="quarantined", reason=error.reason, detail=error.detail)
            refusals.refuse_object(refused)
            return refused
        finally:
            if item.file is None:
                file.unlink(missing_ok=True)
        self.days.append(days)
        self.clashing += clashing
        self.objects.append(replace(result, rows=rows, rows_quarantined=bad, duplicates=duplicates))
        return None

    def results(self) -> list[ObjectResult]:
        """The objects that were read, and the days that they do not cover."""
        dataset, interval = self._context.dataset, self._context.unit.interval
        return [
            replace(
                result,
                days_short=",".join(days_short(dataset, interval, result.task.period, days)),
            )
            if result.task.freq == "monthly"
            else result
            for result, days in zip(self.objects, self.days, strict=True)
        ]

    def _keep(self, frame: pl.DataFrame, ordered: bool) -> None:
        if frame.is_empty():
            return
        # An ordered piece has one column as its key: that and the time must both go on.
        time, key = self._context.dataset.time, self._context.dataset.key[0]
        if self._last is not None:
            last_time, last_key = self._last
            goes_on = frame[time][0] >= last_time and frame[key][0] > last_key
            ordered = ordered and goes_on
        self.ordered = self.ordered and ordered
        self._last = (frame[time][-1], frame[key][-1])
        path = self._context.folder / f"piece-{len(self.pieces):05d}.parquet"
        frame = with_day(frame, self._context.dataset)
        frame.write_parquet(path, compression="zstd", compression_level=1)
        self.pieces.append(path)


def stage_existing(context: Context, existing: Existing) -> list[Path]:
    """Copy the symbol's existing rows next to the new ones, a row group at a time."""
    paths = []
    for i, frame in enumerate(existing.groups(context.symbol)):
        path = context.folder / f"existing-{i:05d}.parquet"
        frame = with_day(frame, context.dataset)
        frame.write_parquet(path, compression="zstd", compression_level=1)
        paths.append(path)
    return paths
