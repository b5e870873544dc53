"""What becomes of gaps that captures have seen: filled, absent, refused.

That is told from the tables and the ledger alone, so it makes no difference who brought the rows
(REST, the archive, a message that came late), nor when who asked for them was killed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.fill_plan import minus
from lakehouse_ray.model.streams import GAP_KEY, STREAM_GAP_STATES, GapState, StreamGap
from lakehouse_ray.model.timespan import SECOND_US, TimeRange, to_us
from lakehouse_ray.pipeline.asked_before import asked_of, ids_asked_of
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.realtime_plan import LASTING
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.pinned import Pinned
from lakehouse_ray.query.stream_gaps import rows_there, stream_gaps
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.storage.ledger import log_request, plain_rows, read_object_log

# REST may lack for a while what streams have just told: what it has not until then counts as absent.
ABSENT_AFTER_US = 60 * SECOND_US


@dataclass(frozen=True)
class Settled:
    """changed: How many gaps are now in which state that they were not in. open: How many still are."""

    changed: Counter[GapState]
    open: int = 0


@dataclass(frozen=True)
class Told:
    """What the ledger says of one series since its gaps were found.

    asked: When an answer came that told all there is, of which time or which ids.
    refused: When and why the exchange refused it.
    """

    asked: tuple[tuple[int, TimeRange | None, tuple[int, int] | None], ...] = ()
    refused: tuple[tuple[int, str], ...] = ()


def settle_gaps(writer: Writer, asked: Asked, run_id: str, *, absent_too: bool = True) -> Settled:
    """Look at gaps that are not filled and say what has become of them. Looking again says nothing new.

    absent_too: Also at those that REST did not have: the archive may.
    """
    pinned = Pinned(Reader(writer.settings).lake, VIEWS.values())
    states: tuple[GapState, ...] = ("open", "refused")
    gaps = stream_gaps(pinned, asked, (*states, "absent") if absent_too else states)
    if not gaps:
        return Settled(Counter())
    told = _ledger(writer, gaps)
    now_us = writer.clock.now_us()
    after = [
        judge(gap, rows, sources, told[_series(gap)])
        for gap, (rows, sources) in zip(gaps, rows_there(pinned, gaps), strict=True)
    ]
    changed = [
        replace(one, told_us=now_us)
        for one, before in zip(after, gaps, strict=True)
        if (one.state, one.missing_left, one.detail)
        != (before.state, before.missing_left, before.detail)
    ]
    tell_states(writer, changed, run_id)
    return Settled(Counter(gap.state for gap in changed), sum(gap.state == "open" for gap in after))


def judge(gap: StreamGap, rows: int, sources: str, told: Told) -> StreamGap:
    """Return the gap in the state that it has, given the rows that are there. Pure."""
    missing = gap.missing or 0
    left = max(0, missing - rows)
    if gap.missing is not None and not left:
        return replace(gap, state="filled", missing_left=0, detail=f"by {sources}")
    since_us = gap.found_us + ABSENT_AFTER_US
    spans = [span for at_us, span, _ in told.asked if span is not None and at_us >= since_us]
    ids = [ids for at_us, _, ids in told.asked if ids is not None and at_us >= since_us]
    covered = not list(minus(gap.span, spans))
    if gap.first_id is not None and gap.last_id is not None and ids:
        wanted = TimeRange(gap.first_id, gap.last_id + 1)
        covered |= not list(minus(wanted, (TimeRange(a, b + 1) for a, b in ids)))
    if covered and gap.missing is None:
        detail = "REST was asked for all of it; how many were missing is not known"
        return replace(gap, state="filled", missing_left=None, detail=detail)
    if covered:
        detail = f"REST was asked for all of it and lacks {left:,} of {missing:,}"
        return replace(gap, state="absent", missing_left=left, detail=detail)
    refusals = [why for at_us, why in told.refused if at_us >= gap.found_us]
    if refusals:
        return replace(gap, state="refused", missing_left=left, detail=refusals[-1])
    return gap


def _series(gap: StreamGap) -> tuple[str, str, str, str | None]:
    return gap.market, gap.dataset, gap.symbol, gap.interval


def _ledger(
    writer: Writer, gaps: Sequence[StreamGap]
) -> dict[tuple[str, str, str, str | None], Told]:
    found: dict[tuple[str, str, str, str | None], Told] = {_series(gap): Told() for gap in gaps}
    kinds: dict[tuple[str, str, str | None], int] = {}
    for gap in gaps:
        kind = gap.market, gap.dataset, gap.interval
        kinds[kind] = min(gap.found_us, kinds.get(kind, gap.found_us))
    columns = ("symbol", "state", "reason", "detail", "last_modified", "seen_at")
    for (market, dataset, interval), since_us in kinds.items():
        log = read_object_log(
            writer.catalog, market, dataset, interval, freq="rest", since_us=since_us
        )
        for symbol, state, reason, detail, received, seen in log.select(columns).iter_rows():
            key = market, dataset, symbol, interval
            if key not in found:
                continue
            one = found[key]
            if reason in LASTING:
                why = f"{reason}: {detail}"
                found[key] = replace(one, refused=(*one.refused, (to_us(seen), why)))
            elif state == "built" and detail:
                answer = to_us(received), asked_of(detail), ids_asked_of(detail)
                found[key] = replace(one, asked=(*one.asked, answer))
    return found


def tell_states(writer: Writer, changed: Iterable[StreamGap], run_id: str) -> None:
    """Put down in which state gaps are now."""
    by_partition: dict[tuple[str, str], list[dict[str, object]]] = {}
    for gap in changed:
        by_partition.setdefault((gap.market, gap.dataset), []).append(_row(gap, run_id))
    if not by_partition:
        return
    with open_committers(writer, (STREAM_GAP_STATES,), run_id, local=True) as committers:
        for partition, rows in by_partition.items():
            frame = plain_rows(STREAM_GAP_STATES, rows)
            request_id = _name(partition, frame)
            request = log_request(STREAM_GAP_STATES, writer.store, frame, partition, request_id)
            committers.commit(STREAM_GAP_STATES, [request])


def _row(gap: StreamGap, run_id: str) -> dict[str, object]:
    return {
        "market": gap.market,
        "dataset": gap.dataset,
        "symbol": gap.symbol,
        "interval": gap.interval or "",
        "first_id": gap.first_id,
        "last_id": gap.last_id,
        "start_time": gap.start_us,
        "end_time": gap.end_us,
        "found_at": gap.found_us,
        "state": gap.state,
        "missing_left": gap.missing_left,
        "detail": gap.detail,
        "run_id": run_id,
        "told_at": gap.told_us,
    }


def _name(partition: tuple[str, str], rows: pl.DataFrame) -> str:
    text = f"{partition} {rows.select(*GAP_KEY, 'state', 'told_at').hash_rows().sum()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
