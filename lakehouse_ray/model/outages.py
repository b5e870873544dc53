"""When the exchange stood still: known dates, each with where it is known from.

Trading on spot was halted for all pairs, so no bar exists anywhere; nothing is to be fetched. The
times are those at which BTCUSDT's bars end and begin again, at the finest interval that a source
gives. In the hourly files of BTCUSDT from 2018 to 2025 no trade is counted in any whole hour of
them, and each hole of these files lies in one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse_ray.model.timespan import HOUR_US, TimeRange, parse_time
from lakehouse_ray.model.venue import Market

_ISSUES = "github.com/binance/binance-public-data/issues/"
# A list of maintenance windows, and the exchange's word that no bar is made while trading is halted.
_MAINTENANCE = f"{_ISSUES}169"
# Missing seconds of BTCUSDT, 2017 to 2024, and those of its last four years.
_SECONDS = f"{_ISSUES}365"
_SECONDS_LATE = f"{_ISSUES}368"
# Missing bars of another symbol at 1h, 15m and 5m: the same hours.
_OTHER_SYMBOL = f"{_ISSUES}312"
_HOURLY = "the hourly files of BTCUSDT"
_BLOG = (
    "binance.com/en/blog/from-cz/a-look-behind-the-scenes-at-why-spot-trading-temporarily-stopped-"
    "6789340645608890113"
)


@dataclass(frozen=True)
class Outage:
    """Trading stood still in `[start, end)`. source: Where that is said or was seen."""

    market: Market
    start_us: int
    end_us: int
    source: str

    @property
    def span(self) -> TimeRange:
        return TimeRange(self.start_us, self.end_us)


# Pairs came back one by one: a hole that reaches so far beyond an outage is still of it.
SLACK_US = HOUR_US


def _spot(start: str, end: str, source: str) -> Outage:
    return Outage("spot", parse_time(start), parse_time(end), source)


OUTAGES: tuple[Outage, ...] = (
    _spot("2017-09-06T16:00", "2017-09-06T23:00", _MAINTENANCE),
    _spot("2017-12-04T06:00:21", "2017-12-04T06:49:06", _SECONDS),
    _spot("2017-12-18T10:00:43", "2017-12-18T10:14:47", _SECONDS),
    _spot("2017-12-18T12:15", "2017-12-18T13:34:10", _MAINTENANCE),
    _spot("2018-01-04T03:00:15", "2018-01-04T05:06:13", _MAINTENANCE),
    _spot("2018-02-08T00:28:15", "2018-02-09T10:00:01", _MAINTENANCE),
    _spot("2018-02-10T05:58:14", "2018-02-10T06:15", _MAINTENANCE),
    _spot("2018-02-11T04:00:01", "2018-02-11T04:35", _SECONDS),
    _spot("2018-06-26T02:00", "2018-06-26T12:00", _SECONDS),
    _spot("2018-06-27T13:00", "2018-06-27T14:45", _SECONDS),
    _spot("2018-07-04T00:22:26", "2018-07-04T08:00", _SECONDS),
    _spot("2018-10-19T06:00", "2018-10-19T09:30", _SECONDS),
    _spot("2018-11-14T02:00", "2018-11-14T09:00", _SECONDS),
    _spot("2019-03-12T02:00", "2019-03-12T08:00", _SECONDS),
    _spot("2019-05-15T03:00", "2019-05-15T13:00", _SECONDS),
    _spot("2019-06-07T21:13:14", "2019-06-07T22:15", _SECONDS),
    _spot("2019-08-15T02:00", "2019-08-15T10:00", _SECONDS),
    _spot("2019-11-13T02:00", "2019-11-13T04:00", _HOURLY),
    _spot("2019-11-25T02:00", "2019-11-25T04:00", _HOURLY),
    _spot("2020-02-09T02:00", "2020-02-09T03:00", _SECONDS_LATE),
    _spot("2020-02-19T11:35:33", "2020-02-19T17:30", f"{_ISSUES}84"),
    _spot("2020-03-04T09:21:47", "2020-03-04T11:30", _SECONDS_LATE),
    _spot("2020-04-25T02:00", "2020-04-25T04:30", _SECONDS_LATE),
    _spot("2020-06-28T02:00", "2020-06-28T05:30", _SECONDS_LATE),
    _spot("2020-11-30T06:00", "2020-11-30T07:00", _OTHER_SYMBOL),
    _spot("2020-12-21T13:47:21", "2020-12-21T18:00", _SECONDS_LATE),
    _spot("2020-12-25T02:00", "2020-12-25T03:00", _SECONDS_LATE),
    _spot("2021-02-11T03:40:55", "2021-02-11T05:00", _SECONDS_LATE),
    _spot("2021-03-06T02:00", "2021-03-06T03:30", _SECONDS_LATE),
    _spot("2021-04-20T02:00", "2021-04-20T04:30", _SECONDS_LATE),
    _spot("2021-04-25T04:00:59", "2021-04-25T08:45", _SECONDS_LATE),
    _spot("2021-08-13T02:00", "2021-08-13T06:30", _OTHER_SYMBOL),
    _spot("2021-09-29T07:00", "2021-09-29T09:00", _OTHER_SYMBOL),
    _spot("2023-03-24T12:39:42", "2023-03-24T14:00", _BLOG),
)


def known_outage(market: str, span: TimeRange) -> Outage | None:
    """Return the outage in which a hole lies, give or take `SLACK_US` at either end."""
    for outage in OUTAGES:
        wide = TimeRange(outage.start_us - SLACK_US, outage.end_us + SLACK_US)
        if outage.market == market and wide.contains(span) and outage.span.overlaps(span):
            return outage
    return None
