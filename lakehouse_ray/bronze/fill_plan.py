"""From ranges that are missing to requests: how many, of what weight, in which units of work.

Pure functions; what is stored and what was asked before comes in as values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.streams import StreamGap
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, SECOND_US, TimeRange
from lakehouse_ray.model.venue import INTERVALS, Market
from lakehouse_ray.sources.binance import rest_requests as ask
from lakehouse_ray.sources.binance.rest_bars import bars_in
from lakehouse_ray.sources.budget import Limit
from lakehouse_ray.storage.schemas import bucket_of

# Ranges of a series that lie nearer to each other are asked for as one: a page holds both.
_JOINED_BARS = 50
_JOINED_US = 10 * MINUTE_US
# Rows of a symbol and day where none of it is stored.
_ROWS_A_DAY = {"aggTrades": 100_000.0, "trades": 300_000.0}
# Ids of a gap that are asked for one by one: a thousand pages.
_IDS_MAX = 1_000_000
_SAMPLE_US = 5 * MINUTE_US
_FUNDING_US = 8 * HOUR_US


@dataclass(frozen=True)
class Planned:
    """A fill and what it will take, as far as can be said before.

    kind: gap, tail or stream_gap (one that a capture has seen). rows: At most, or as many as the symbol usually has.
    costs: Of each limit of the market.
    """

    fill: Fill
    kind: str
    rows: int
    requests: int
    costs: Mapping[str, int]


@dataclass(frozen=True)
class FillUnit:
    """What a worker asks for in one go: fills of one market, data set and interval."""

    fills: tuple[Planned, ...]

    @property
    def name(self) -> str:
        """For people: its series, of several the first."""
        first = self.fills[0].fill
        parts = (first.market, first.dataset, first.interval, first.symbol)
        return "/".join(part for part in parts if part)

    @property
    def requests(self) -> int:
        return sum(one.requests for one in self.fills)


@dataclass
class FillPlan:
    """What a run will do.

    series: Series that were looked at. current: Those that lack nothing.
    skipped: By reason, series and ranges that are not asked for.
    """

    planned: list[Planned] = field(default_factory=list)
    series: int = 0
    current: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.planned)

    @property
    def requests(self) -> int:
        return sum(one.requests for one in self.planned)

    def costs(self) -> dict[Market, Counter[str]]:
        """What each market's limits are charged."""
        found: dict[Market, Counter[str]] = {}
        for one in self.planned:
            found.setdefault(one.fill.market, Counter()).update(one.costs)
        return found

    def seconds(self, limits: Mapping[Market, Sequence[Limit]], share: float) -> float:
        """How long it takes at least: markets go on beside each other, each at its tightest limit.

        What fits into one window is sent at once.
        """
        longest = 0.0
        for market, costs in self.costs().items():
            for limit in limits[market]:
                windows = math.ceil(costs[limit.name] / (limit.amount * share)) - 1
                longest = max(longest, windows * limit.window_s)
        return longest


def minus(span: TimeRange, taken: Iterable[TimeRange]) -> Iterator[TimeRange]:
    """What of a range lies in none of the others, in order."""
    start_us = span.start_us
    for other in sorted(taken):
        if other.end_us <= start_us or other.start_us >= span.end_us:
            continue
        if other.start_us > start_us:
            yield TimeRange(start_us, other.start_us)
        start_us = max(start_us, other.end_us)
    if start_us < span.end_us:
        yield TimeRange(start_us, span.end_us)


def joined(spans: Iterable[TimeRange], interval: str | None) -> Iterator[TimeRange]:
    """Join ranges of a series that overlap or lie so near that asking for each costs more."""
    near_us = _JOINED_US
    if interval is not None:
        near_us = _JOINED_BARS * (INTERVALS[interval] or 31 * DAY_US)
    last: TimeRange | None = None
    for span in sorted(spans):
        if last is not None and span.start_us <= last.end_us + near_us:
            last = TimeRange(last.start_us, max(last.end_us, span.end_us))
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def plan_fill(
    fill: Fill, kind: str, requests_max: int, rows_a_day: float | None = None
) -> Iterator[Planned]:
    """Cut a fill into parts of no more than about so many requests, and say what each will take.

    rows_a_day: Of trades and aggTrades, as the symbol has had them.
    """
    for span in _one_unit_of_time(fill):
        part = replace(fill, span=span)
        length_us = _length_of_requests(part, requests_max, rows_a_day)
        for start_us in range(span.start_us, span.end_us, length_us):
            end_us = min(span.end_us, start_us + length_us)
            yield _estimated(replace(part, span=TimeRange(start_us, end_us)), kind, rows_a_day)


def plan_ids(fill: Fill, kind: str, requests_max: int) -> Iterator[Planned]:
    """The same of a fill by ids: cut into parts of so many pages."""
    assert fill.ids is not None
    page_rows = _page_rows(fill)
    first, last = fill.ids
    for start in range(first, last + 1, page_rows * requests_max):
        end = min(last, start + page_rows * requests_max - 1)
        rows = end - start + 1
        requests = -(-rows // page_rows)
        page = ask.trades_from if fill.dataset == "trades" else ask.agg_trades_from
        costs = page(fill.market, fill.symbol, start, micro=False).costs
        total = {name: cost * requests for name, cost in costs.items()}
        yield Planned(replace(fill, ids=(start, end)), kind, rows, requests, total)


def plan_stream_gaps(
    gaps: Iterable[StreamGap], now_us: Mapping[Market, int], requests_max: int
) -> Iterator[Planned]:
    """Plan what REST can bring of gaps of streams: numbered rows by their numbers, bars by time.

    Neighbours share a request. now_us: The exchange's time.
    """
    series: dict[tuple[Market, str, str, str | None], list[StreamGap]] = {}
    for gap in gaps:
        key = gap.market, gap.dataset, gap.symbol, gap.interval
        series.setdefault(key, []).append(gap)
    for (market, dataset, symbol, interval), members in sorted(series.items(), key=str):
        whole = Fill(market, dataset, symbol, interval, members[0].span, now_us[market])
        numbered = [gap for gap in members if _by_number(gap)]
        for part in _joined_ids(numbered, _page_rows(whole)):
            span = TimeRange(part[0].span.start_us, max(gap.span.end_us for gap in part))
            ids = part[0].first_id, max(gap.last_id or 0 for gap in part)
            assert ids[0] is not None
            fill = replace(whole, span=span, ids=(ids[0], ids[1]))
            yield from plan_ids(fill, "stream_gap", requests_max)
        # Numbers that leap by millions are no trades that are missing: time tells what there is.
        reach_us = 0 if interval else SECOND_US
        others = [
            TimeRange(gap.span.start_us - reach_us, gap.span.end_us + reach_us)
            for gap in members
            if not _by_number(gap)
        ]
        for span in joined(others, interval):
            yield from plan_fill(replace(whole, span=span), "stream_gap", requests_max)


def _by_number(gap: StreamGap) -> bool:
    return gap.first_id is not None and (gap.missing or 0) <= _IDS_MAX


def _joined_ids(gaps: Sequence[StreamGap], page_rows: int) -> Iterator[list[StreamGap]]:
    """Gaps that one page holds together."""
    part: list[StreamGap] = []
    for gap in sorted(gaps, key=lambda gap: gap.first_id or 0):
        assert gap.last_id is not None
        if part and gap.last_id - (part[0].first_id or 0) >= page_rows:
            yield part
            part = []
        part.append(gap)
    if part:
        yield part


def make_units(planned: Iterable[Planned], requests_max: int) -> Iterator[FillUnit]:
    """Bundle fills: symbols of one partition beside each other, so that they share files."""
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for one in planned:
        fill = one.fill
        groups.setdefault((fill.market, fill.dataset, fill.interval or ""), []).append(one)
    for _, members in sorted(groups.items()):
        members.sort(key=lambda one: (*_place(one.fill), one.fill.span.start_us))
        unit: list[Planned] = []
        requests = 0
        for one in members:
            other_bucket = unit and _place(unit[-1].fill)[0] != _place(one.fill)[0]
            if unit and (requests + one.requests > requests_max or other_bucket):
                yield FillUnit(tuple(unit))
                unit, requests = [], 0
            unit.append(one)
            requests += one.requests
        yield FillUnit(tuple(unit))


def _place(fill: Fill) -> tuple[int, str]:
    table = DATASETS[fill.dataset].table(fill.interval)
    fine = any(partition.transform == "bucket16" for partition in table.partitions)
    return (bucket_of(fill.symbol) if fine else 0), fill.symbol


def _one_unit_of_time(fill: Fill) -> Iterator[TimeRange]:
    """Spot is asked in ms for what its files have in ms, and in µs from where they have µs."""
    span, border = fill.span, ask.MICRO_FROM_US
    if fill.market == "spot" and span.start_us < border < span.end_us:
        yield TimeRange(span.start_us, border)
        yield TimeRange(border, span.end_us)
    else:
        yield span


def _length_of_requests(fill: Fill, requests_max: int, rows_a_day: float | None) -> int:
    """How long a range may be that takes so many requests, in steps that leave bars whole."""
    dataset = fill.dataset
    if fill.interval is not None:
        length_us = INTERVALS[fill.interval]
        if length_us is None:
            return fill.span.end_us - fill.span.start_us
        return requests_max * ask.bars_a_page(fill.market, fill.interval, 1 << 30) * length_us
    if dataset == "metrics":
        pages = max(1, requests_max // len(ask.METRICS_ROUTES))
        return pages * ask.METRICS_PAGE_ROWS * _SAMPLE_US
    if dataset == "fundingRate":
        return requests_max * ask.FUNDING_PAGE_ROWS * _FUNDING_US
    page_rows = _page_rows(fill)
    days = requests_max * page_rows / max(1.0, rows_a_day or _ROWS_A_DAY[dataset])
    # Each part begins with a question of its own: none shorter than an hour.
    return max(HOUR_US, int(days * 24) * HOUR_US)


def _estimated(fill: Fill, kind: str, rows_a_day: float | None) -> Planned:
    span_us = fill.span.end_us - fill.span.start_us
    if fill.interval is not None:
        return _estimated_bars(fill, kind)
    if fill.dataset == "metrics":
        rows = -(-span_us // _SAMPLE_US)
        routes = len(ask.METRICS_ROUTES)
        requests = routes * -(-rows // ask.METRICS_PAGE_ROWS)
        found = [ask.metrics(fill.market, r, "A_PERP", 0, 1) for r, _ in ask.METRICS_ROUTES]
        costs = Counter[str]()
        for request in found:
            if request is not None:
                costs.update(request.costs)
        pages = requests // routes
        return Planned(fill, kind, rows, requests, {n: c * pages for n, c in costs.items()})
    if fill.dataset == "fundingRate":
        rows = -(-span_us // _FUNDING_US)
        # The page itself and two that say there is no more.
        requests = -(-rows // ask.FUNDING_PAGE_ROWS) + 2
        costs = Counter(ask.funding(fill.market, fill.symbol, 0, 1000).costs)
        return Planned(fill, kind, rows, requests, {n: c * requests for n, c in costs.items()})
    rows = math.ceil((rows_a_day or _ROWS_A_DAY[fill.dataset]) * span_us / DAY_US)
    first = Counter(ask.agg_trades_from(fill.market, fill.symbol, 0, micro=False).costs)
    each = first
    if fill.dataset == "trades":
        each = Counter(ask.trades_from(fill.market, fill.symbol, 0, micro=False).costs)
    pages = -(-rows // _page_rows(fill)) + 1
    total = {name: first[name] + each[name] * pages for name in first}
    return Planned(fill, kind, rows, pages + 1, total)


def _estimated_bars(fill: Fill, kind: str) -> Planned:
    interval = fill.interval or ""
    rows = bars_in(fill.span, interval)
    a_page = ask.bars_a_page(fill.market, interval, rows)
    pages, left = divmod(rows, a_page)
    costs = Counter[str]()
    for count, times in ((a_page, pages), (left, 1)):
        if count and times:
            request = ask.bars(fill.market, fill.dataset, fill.symbol, interval, 0, 1000, count + 2)
            costs.update({name: cost * times for name, cost in request.costs.items()})
    return Planned(fill, kind, rows, pages + bool(left), costs)


def _page_rows(fill: Fill) -> int:
    return ask.TRADE_PAGE_ROWS[fill.market] if fill.dataset == "trades" else ask.AGG_PAGE_ROWS
