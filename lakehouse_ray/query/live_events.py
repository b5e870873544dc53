"""What `lake.live` gives: events one by one, or those that came together as a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import polars
import pyarrow as pa

from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.query.conversions import pandas_of
from lakehouse_ray.query.live_token import LiveToken
from lakehouse_ray.query.step_rows import CAUSE, EVENT, WAS, Wanted
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.storage.frames import frame_schema

Kind = Literal["row", "correction", "gap", "slow"]
GAP: Kind = "gap"
SLOW: Kind = "slow"
# What an event of kind `slow` has in place of a row.
SLOW_SCHEMA = polars.Schema({"waited_s": polars.Float64(), "commits_behind": polars.Int64()})


@dataclass(frozen=True)
class LiveEvent:
    """One event.

    kind: `row`: new, and later than all that its symbol had. `correction`: a row that came late,
        that is another than it was, or that is gone. `gap`: rows that a capture did not get.
        `slow`: events had to wait for whoever reads them; none was left out.
    seq: Counts the events of a follower one by one, across `resume` too.
    row: Columns of `silver.<data set>`; None: it is gone. Of a gap those of
        `silver.stream_gap_log`; of `slow`, `waited_s` and `commits_behind`.
    was: Of a correction, what the row was before; None: there was none.
    cause: Of a correction: `late`, `changed` or `removed`.
    token: What `resume` spells.
    """

    kind: Kind
    seq: int
    row: Mapping[str, Any] | None
    was: Mapping[str, Any] | None = None
    cause: str | None = None
    token: LiveToken = field(default_factory=LiveToken, repr=False)

    @property
    def symbol(self) -> str | None:
        known: str | None = (self.row or self.was or {}).get("symbol")
        return known

    @property
    def source(self) -> str | None:
        """Where the row is from: `daily`, `monthly`, `rest` or `stream`."""
        known: str | None = (self.row or self.was or {}).get("source")
        return known

    @property
    def resume(self) -> str:
        """Given as `resume=`, following goes on with the event after this one."""
        return self.token.spell()


class LiveBatch:
    """Events that came together: rows and corrections, or gaps, or the notice of a slow reader.

    Iterating gives its events.
    """

    def __init__(self, found: polars.DataFrame, wanted: Wanted, token: LiveToken) -> None:
        """found: As `step_rows` gives it. token: Of its last event."""
        self._found = found
        self._wanted = wanted
        self.token = token

    def __len__(self) -> int:
        return self._found.height

    def __repr__(self) -> str:
        return f"LiveBatch({len(self):,} events to {self.token.seq:,})"

    @property
    def resume(self) -> str:
        """As of the last event."""
        return self.token.spell()

    @cached_property
    def kind(self) -> str:
        """`rows`, `gap` or `slow`."""
        first = self._found[EVENT].first()
        return str(first) if first in (GAP, SLOW) else "rows"

    def __iter__(self) -> Iterator[LiveEvent]:
        names = [name for name in self._found.columns if not name.startswith(("_", WAS))]
        was = [f"{WAS}{name}" for name in names if f"{WAS}{name}" in self._found.columns]
        now_rows = self._found.select(names).iter_rows(named=True)
        was_rows = self._found.select(polars.col(name).alias(name[len(WAS) :]) for name in was)
        earlier: Iterator[Mapping[str, Any]] = was_rows.iter_rows(named=True)
        for number, kind in enumerate(self._found[EVENT]):
            token = self.token.before(len(self) - 1 - number)
            row, before, cause = next(now_rows), next(earlier, None), self._found[CAUSE][number]
            yield LiveEvent(
                kind, token.seq,
                None if cause == "removed" else row,
                before if cause in ("changed", "removed") else None,
                cause, token,
            )  # fmt: skip

    def pl(self) -> polars.DataFrame:
        """Rows and corrections: `seq`, `event`, `cause`, then the columns of the data set's view. Of a
        row that is gone, what it was. Of a batch of gaps, none."""
        names = self._wanted.columns
        if self.kind != "rows":
            schema = {"seq": polars.Int64(), "event": polars.String(), "cause": polars.String()}
            return polars.DataFrame(schema={**schema, **row_schema(self._wanted)})
        gone = polars.col(CAUSE) == "removed"
        first = self.token.seq - len(self) + 1
        return self._found.select(
            polars.int_range(first, first + polars.len()).alias("seq"),
            polars.col(EVENT).alias("event"),
            polars.col(CAUSE).alias("cause"),
            *(
                polars.when(gone.fill_null(False)).then(f"{WAS}{n}").otherwise(n).alias(n)
                for n in names
            ),
        )

    def arrow(self) -> pa.Table:
        """The same as an Arrow table."""
        return self.pl().to_arrow(compat_level=polars.CompatLevel.oldest())

    def pandas(self) -> Any:
        """The same as a pandas frame. Raises InvalidError where pandas is not installed."""
        return pandas_of(self.arrow())

    def gaps(self) -> polars.DataFrame:
        """Gaps, with the columns of `silver.stream_gap_log`. Of a batch of rows, none."""
        if self.kind != GAP:
            return polars.DataFrame(schema=frame_schema(STREAM_GAPS))
        return self._found.select(STREAM_GAPS.names)


def row_schema(wanted: Wanted) -> dict[str, polars.DataType]:
    """The columns of the data set's view as a frame has them."""
    schema: dict[str, polars.DataType] = dict(frame_schema(wanted.dataset.tables[0]))
    added = VIEWS[f"silver.{wanted.dataset.view}"].added
    return schema | {name: polars.Float64() for name, _ in added}


def slow_frame(waited_s: float, commits_behind: int) -> polars.DataFrame:
    """The notice that events had to wait, as `LiveBatch` takes it."""
    row = {EVENT: [SLOW], CAUSE: [None], "waited_s": [waited_s], "commits_behind": [commits_behind]}
    return polars.DataFrame(
        row, schema={EVENT: polars.String(), CAUSE: polars.String(), **SLOW_SCHEMA}
    )


def told_frame(events: Sequence[Mapping[str, Any]], wanted: Wanted) -> polars.DataFrame:
    """Events of one kind as `/v1/live` spells them, as `LiveBatch` takes them.

    Raises ValueError, TypeError or KeyError for what is not spelled so.
    """
    head: dict[str, Any] = {
        EVENT: [event["event"] for event in events],
        CAUSE: [event.get("cause") for event in events],
    }
    kind = head[EVENT][0]
    schema: dict[str, polars.DataType] = {EVENT: polars.String(), CAUSE: polars.String()}
    if kind in (GAP, SLOW):
        own: Mapping[str, Any] = frame_schema(STREAM_GAPS) if kind == GAP else SLOW_SCHEMA
        sides = {"": ([event["row"] for event in events], own)}
    else:
        rows = row_schema(wanted)
        sides = {
            "": ([event.get("row") for event in events], rows),
            WAS: ([event.get("was") for event in events], rows),
        }
    for prefix, (told, columns) in sides.items():
        for name, of in columns.items():
            values = [None if row is None else row[name] for row in told]
            if isinstance(of, polars.Datetime):
                values = [None if v is None else datetime.fromisoformat(v) for v in values]
            head[prefix + name], schema[prefix + name] = values, of
    return polars.DataFrame(head, schema=schema, strict=True)
