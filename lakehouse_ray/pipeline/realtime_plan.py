"""What the lake lacks and REST may have: gaps between its rows, and what came after the last one.

Everything is read from the lake's tables and its ledger; the exchange is asked for its time, and of
futures whose trades begin somewhere for their first bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.bronze.fill_plan import FillPlan, joined, minus, plan_fill, plan_stream_gaps
from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.metrics import METRICS
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.rhythm import Grid, Months, OwnHours, rhythm_of
from lakehouse_ray.model.streams import StreamGap
from lakehouse_ray.model.timespan import (
    DAY_US,
    SECOND_US,
    TimeRange,
    month_of,
    month_ordinal,
    to_us,
)
from lakehouse_ray.model.venue import Market, parse_market
from lakehouse_ray.pipeline.asked_before import asked_of
from lakehouse_ray.pipeline.exchange_told import exchange_times, since_the_first_bar
from lakehouse_ray.pipeline.realtime_holes import (
    end_of,
    head_of,
    holes_between,
    partial_slots,
    reach_of,
    tells_all,
    without_files,
)
from lakehouse_ray.query.asked import Asked, wanted
from lakehouse_ray.query.pinned import Kind, Pinned
from lakehouse_ray.query.stream_gaps import stream_gaps
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.sources.binance.rest import REST_DATASETS
from lakehouse_ray.sources.binance.rest_bars import SETTLED_US
from lakehouse_ray.sources.binance.rest_contracts import metrics_from_us
from lakehouse_ray.storage.ledger import read_object_log

# Of what happens now the exchange's answers may lack some for so long.
_NOW_US = 5 * SECOND_US
# On futures these are asked for an hour at a time until there is a row.
_BY_HOUR = ("aggTrades", "trades")
# Reasons for which a series is left alone for a while.
LASTING = ("INVALID_SYMBOL", "KEY_NEEDED", "REQUEST_REFUSED")


@dataclass(frozen=True)
class UpdateRequest:
    """What to bring up to date.

    asked: Series; symbols that are not stored are filled from `asked.start_us` on. Its range bounds
        gaps and the latest rows alike.
    again: Ask again for what the exchange said it has not.
    build: Rebuild derived tables afterwards.
    stream_gaps_only: Nothing but gaps that captures of streams have seen.
    """

    asked: Asked
    again: bool = False
    build: bool = True
    stream_gaps_only: bool = False


@dataclass(frozen=True)
class _Before:
    """What the ledger knows of a series. asked: Ranges of which every row that there is was had."""

    asked: tuple[TimeRange, ...] = ()
    refused: str = ""


def plan_update(writer: Writer, request: UpdateRequest, account: KeptBudget) -> FillPlan:
    """Say what is missing and what it takes to ask for it. Writes nothing but the account.

    Raises NotFoundError where nothing of what is asked for is stored, nor could be;
    LakehouseError where lake or exchange cannot be reached.
    """
    pinned = Pinned(Reader(writer.settings).lake, VIEWS.values())
    asked = request.asked
    plan = FillPlan()
    seen = stream_gaps(pinned, asked, ("open", "refused", "absent", "no_history"))
    due = _due(writer, seen, request, plan)
    if request.stream_gaps_only:
        if due:
            times = exchange_times(writer, account, {gap.market for gap in due})
            plan.planned += plan_stream_gaps(due, times, writer.settings.update.unit_requests_max)
        return plan
    series = [(kind, pinned.lives(kind)) for kind in _kinds(pinned, asked)]
    new = _not_stored(asked, series)
    if not series and not new:
        raise NotFoundError(
            f"nothing of {asked} is stored that REST has"
            if str(asked)
            else "nothing is stored yet",
            "ingest it first, or name symbols, --market, --dataset and --start",
        )
    markets = {parse_market(kind.market) for kind, _ in series} | {fill[0] for fill in new}
    now_us = exchange_times(writer, account, markets)
    plan.planned += plan_stream_gaps(due, now_us, writer.settings.update.unit_requests_max)
    for kind, lives in series:
        mine = wanted(lives, asked)
        _plan_kind(writer, account, pinned, request, kind, mine, now_us, plan, seen)
    spans: dict[tuple[Market, str], TimeRange] = {}
    for market, _, _, symbol in new:
        assert asked.start_us is not None
        end_us = end_of(asked, now_us[market] - _NOW_US)
        if asked.start_us < end_us:
            spans[market, symbol] = TimeRange(asked.start_us, end_us)
    if asked.dataset is not None and asked.dataset.name in _BY_HOUR:
        spans = since_the_first_bar(writer, account, spans)
    for market, dataset, interval, symbol in new:
        plan.series += 1
        if (span := spans.get((market, symbol))) is not None:
            if (left := _still_had(dataset, span, now_us[market], plan)) is None:
                continue
            fill = Fill(market, dataset.name, symbol, interval, left, now_us[market])
            plan.planned += plan_fill(fill, "tail", writer.settings.update.unit_requests_max)
    return plan


def _due(
    writer: Writer, gaps: Sequence[StreamGap], request: UpdateRequest, plan: FillPlan
) -> list[StreamGap]:
    """Gaps that REST is to be asked for."""
    since_us = writer.clock.now_us() - writer.settings.update.refused_again_s * 1e6
    due = []
    for gap in gaps:
        stale = gap.state == "refused" and (gap.told_us or 0) < since_us
        if gap.state == "open" or stale or (request.again and gap.state != "no_history"):
            due.append(gap)
        else:
            plan.skipped[f"stream_gap {gap.state}"] += 1
    return due


def _kinds(pinned: Pinned, asked: Asked) -> list[Kind]:
    return [
        kind
        for kind in pinned.kinds
        if asked.takes(kind) and kind.dataset.name in REST_DATASETS[parse_market(kind.market)]
    ]


def _not_stored(
    asked: Asked, series: list[tuple[Kind, pl.DataFrame]]
) -> list[tuple[Market, Dataset, str | None, str]]:
    """Series asked for by name that have no row yet."""
    known = {symbol for _, lives in series for symbol in lives["symbol"].to_list()}
    new = [symbol for symbol in asked.symbols if symbol not in known]
    if not new:
        return []
    if not tells_all(asked):
        raise NotFoundError(
            f"there is no {new[0]} in {str(asked) or 'the lake'}",
            "to fill a symbol that is not stored, give --market, --dataset, --interval and --start",
        )
    assert asked.dataset is not None
    market = parse_market(asked.market or "")
    if asked.dataset.name not in REST_DATASETS[market]:
        raise InvalidError(
            f"REST has no {asked.dataset.name} of {market}",
            f"it has {', '.join(REST_DATASETS[market])}",
        )
    return [(market, asked.dataset, asked.interval, symbol) for symbol in new]


def _plan_kind(
    writer: Writer,
    account: KeptBudget,
    pinned: Pinned,
    request: UpdateRequest,
    kind: Kind,
    lives: pl.DataFrame,
    now_us: Mapping[Market, int],
    plan: FillPlan,
    seen: Sequence[StreamGap],
) -> None:
    """seen: Gaps that captures have told: they are planned by themselves."""
    if lives.is_empty():
        return
    asked, market = request.asked, parse_market(kind.market)
    if rhythm_of(kind.dataset, kind.market, kind.interval) is None:
        holes = without_files(writer, asked, kind, lives)
    else:
        holes = holes_between(pinned, asked, kind, plan)
    if kind.dataset.name == METRICS.name:
        for symbol, span in partial_slots(pinned, asked, kind, now_us[market]):
            holes.setdefault(symbol, []).append(span)
    before = _before(writer, kind, now_us[market])
    reach_us = reach_of(kind)
    told: dict[str, list[TimeRange]] = {}
    for gap in seen:
        if (gap.market, gap.dataset, gap.interval) == (market, kind.dataset.name, kind.interval):
            span = TimeRange(gap.span.start_us - reach_us, gap.span.end_us + reach_us)
            told.setdefault(gap.symbol, []).append(span)
    requests_max = writer.settings.update.unit_requests_max
    for symbol, first, last, rows in lives.iter_rows():
        plan.series += 1
        known = before.get(symbol, _Before())
        if known.refused and not request.again:
            plan.skipped[known.refused] += 1
            continue
        first_us, last_us = to_us(first), to_us(last)
        tail = _tail(kind, last_us, asked, now_us[market])
        rows_a_day = rows / max(1 / 24, (last_us - first_us) / DAY_US)
        gaps = list(joined(holes.get(symbol, ()), kind.interval))
        wanted_spans = [("gap", span) for span in gaps]
        if (head := head_of(kind, first_us, asked)) is not None:
            if kind.dataset.name in _BY_HOUR and any(minus(head, known.asked)):
                head = since_the_first_bar(writer, account, {(market, symbol): head})[
                    market, symbol
                ]
            wanted_spans.append(("gap", head))
        if tail is not None:
            # Gaps go on to the end of what is asked for, where that is told.
            wanted_spans += [("tail", span) for span in minus(tail, gaps)]
        found = 0
        for why, span in wanted_spans:
            asked_before = () if request.again else known.asked
            for left in minus(span, (*asked_before, *told.get(symbol, ()))):
                had = _still_had(kind.dataset, left, now_us[market], plan)
                if had is None:
                    continue
                fill = Fill(market, kind.dataset.name, symbol, kind.interval, had, now_us[market])
                parts = list(plan_fill(fill, why, requests_max, rows_a_day))
                plan.planned += parts
                found += len(parts)
        if not found:
            plan.current += 1


def _still_had(dataset: Dataset, span: TimeRange, now_us: int, plan: FillPlan) -> TimeRange | None:
    """The part of a range that REST still has; None: it has none of it any more."""
    if dataset.name != METRICS.name or (oldest_us := metrics_from_us(now_us)) <= span.start_us:
        return span
    plan.skipped["no_history"] += 1
    return TimeRange(oldest_us, span.end_us) if oldest_us < span.end_us else None


def _before(writer: Writer, kind: Kind, now_us: int) -> dict[str, _Before]:
    """What the ledger says of earlier fills, by symbol."""
    columns = ("symbol", "state", "reason", "detail", "seen_at")
    log = read_object_log(
        writer.catalog, kind.market, kind.dataset.name, kind.interval, "rest", columns
    )
    lasting_us = writer.settings.update.refused_again_s * 1e6
    found: dict[str, _Before] = {}
    for symbol, state, reason, detail, seen_at in log.iter_rows():
        one = found.get(symbol, _Before())
        if state == "built":
            covered = asked_of(detail or "")
            found[symbol] = _Before((*one.asked, covered) if covered else one.asked)
        elif state == "quarantined" and reason in LASTING:
            fresh = _lasts(to_us(seen_at), now_us, lasting_us)
            found[symbol] = replace(one, refused=reason if fresh else "")
    return found


def _lasts(told_us: int, now_us: int, lasting_us: float) -> bool:
    """Whether a refusal still holds. One of far in the future is of a clock that was ahead."""
    return abs(now_us - told_us) < lasting_us


def _tail(kind: Kind, last_us: int, asked: Asked, now_us: int) -> TimeRange | None:
    """From after the last row to now, as far as rows of it are whole."""
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    end_us = end_of(asked, now_us - _NOW_US)
    if isinstance(rhythm, Grid):
        step = rhythm.step_us
        anchor_us = last_us if rhythm.anchor_us is None else rhythm.anchor_us
        start_us = last_us + step - (last_us - anchor_us) % step
        closed_us = now_us - SETTLED_US if kind.dataset.bars else now_us
        closed_us = min(end_us, closed_us)
        end_us = closed_us - (closed_us - anchor_us) % step
    elif isinstance(rhythm, Months):
        start_us = month_of(month_ordinal(last_us) + 1).start_us
        end_us = month_of(month_ordinal(end_us)).start_us
    elif isinstance(rhythm, OwnHours):
        start_us = last_us + SECOND_US
    else:
        # More may have happened at the very moment of the last one.
        start_us = last_us
    if asked.start_us is not None:
        start_us = max(start_us, asked.start_us)
    return TimeRange(start_us, end_us) if start_us < end_us else None
