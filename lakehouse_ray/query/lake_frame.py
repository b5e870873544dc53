"""What a question for the rows of one symbol gives: a Polars LazyFrame that knows what was asked."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import duckdb
import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from lakehouse_ray.errors import InvalidError, LakehouseError
from lakehouse_ray.query.conversions import BATCH_ROWS, SHOWN_ROWS, pandas_of
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.versions import spell_versions

# What Polars calls to read: columns, a filter, how many rows, how many at a time.
Frames = Callable[
    [list[str] | None, pl.Expr | None, int | None, int | None], Iterator[pl.DataFrame]
]


@dataclass(frozen=True)
class Meta:
    """What an answer was asked for and read from.

    snapshots: Of each table that it was read from; None: it had no rows yet.
    facts: The lake, to ask for gaps and quality when somebody looks at them.
    asked: The series and range, as `lake.gaps` takes them.
    question_as_of: As it was asked; None: as of now.
    """

    facts: Any = field(repr=False)
    asked: Mapping[str, Any]
    snapshots: Mapping[str, int | None]
    question_as_of: AsOf = None

    @property
    def as_of(self) -> str:
        """The snapshots as a text: given as `as_of=`, the same question has the same answer."""
        return spell_versions(self.snapshots)

    def gaps(self) -> Any:
        """What is missing of it and why: `lake.gaps` of the same series, range and `as_of`.

        Of an asynchronous lake it is to be awaited.
        """
        return self.facts.gaps(**self.asked, as_of=self._facts_as_of)

    def quality(self) -> Any:
        """Scores of its days: `lake.quality` of the same. Empty where none was assessed."""
        return self.facts.quality(**self.asked, as_of=self._facts_as_of)

    @property
    def _facts_as_of(self) -> AsOf:
        """Exact versions name the tables of rows alone; the others are taken as of these."""
        if not isinstance(self.question_as_of, str) or "@" not in self.question_as_of:
            return self.question_as_of
        ids = [one for one in self.snapshots.values() if one is not None]
        return ids[0] if ids else None


class LakeFrame(pl.LazyFrame):
    """A LazyFrame with ways out of Polars, and `meta`.

    What is made of it (`filter`, `select`, …) has these ways too, and no `meta`.
    """

    _meta: Meta | None = None
    _frames: Frames | None = None

    @classmethod
    def over(cls, frames: Frames, schema: pl.Schema, meta: Meta) -> Self:
        """Rows that `frames` gives when they are read."""
        made = cls._from_pyldf(register_io_source(frames, schema=schema)._ldf)
        assert isinstance(made, cls)
        made._meta, made._frames = meta, frames
        return made

    @classmethod
    def held(cls, rows: pl.DataFrame, meta: Meta) -> Self:
        """Rows that are there already."""
        made = cls._from_pyldf(rows.lazy()._ldf)
        assert isinstance(made, cls)
        made._meta = meta
        return made

    @property
    def meta(self) -> Meta:
        """Raises InvalidError for a frame that was made of an answer and is none itself."""
        if self._meta is None:
            raise InvalidError(
                "this frame was made of an answer by Polars", "ask the answer itself for its meta"
            )
        return self._meta

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        return _collected(self).to_arrow(compat_level=pl.CompatLevel.oldest())

    def pandas(self) -> Any:
        """All rows as a pandas DataFrame. Raises InvalidError where pandas is not installed."""
        return pandas_of(self.arrow())

    def duckdb(
        self, connection: duckdb.DuckDBPyConnection | None = None
    ) -> duckdb.DuckDBPyRelation:
        """All rows as a relation of this connection, or of one of its own."""
        return (connection or duckdb.connect()).from_arrow(self.arrow())

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of at most so many; memory holds some batches at a time."""
        if rows < 1:
            raise InvalidError(f"a batch cannot have {rows} rows", "1 or more")
        source = (
            self._frames(None, None, None, rows)
            if self._frames is not None
            else self.collect_batches(chunk_size=rows, maintain_order=True)
        )
        for frame in source:
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            yield from table.to_batches(max_chunksize=rows)

    def _repr_html_(self) -> str:
        """For notebooks: where the rows are from, how good they are, and the first of them."""
        if self._meta is None:
            return str(super()._repr_html_())
        meta = self._meta
        of = " ".join(str(value) for value in meta.asked.values() if value is not None)
        facts = [
            ("of", of), ("snapshots", meta.as_of), ("quality", _told(lambda: _scores(meta))),
            ("gaps", _told(lambda: _missing(meta))),
        ]  # fmt: skip
        lines = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in facts
        )
        try:
            shown = _collected(self.head(SHOWN_ROWS))._repr_html_()
        except LakehouseError as error:
            shown = f"<p>{html.escape(str(error))}</p>"
        return f"<table>{lines}</table>{shown}"


def _collected(frame: pl.LazyFrame) -> pl.DataFrame:
    found = frame.collect()
    assert isinstance(found, pl.DataFrame)
    return found


def _told(tell: Callable[[], str]) -> str:
    """What is told of an answer must not keep it from being shown."""
    try:
        return tell()
    except LakehouseError as error:
        return f"not known: {error}"


def _scores(meta: Meta) -> str:
    found = meta.quality()
    if not isinstance(found, pl.DataFrame):
        found.close()
        return "await meta.quality()"
    scores = found["score"].drop_nulls()
    if scores.is_empty():
        return "not assessed"
    mean, worst = sum(scores) / len(scores), min(scores)
    return f"{mean:.4f} on average of {len(scores):,} days, {worst:.4f} at worst"


def _missing(meta: Meta) -> str:
    found = meta.gaps()
    if not isinstance(found, pl.DataFrame):
        found.close()
        return "await meta.gaps()"
    if found.is_empty():
        return "none"
    causes = ", ".join(sorted(found["cause"].unique()))
    return f"{found.height:,}, {found['missing'].sum():,} rows missing ({causes})"
