"""The REST source against the replica exchange, and what it brings against the archive's own files.

Files are read by Polars' CSV reader, not by this package.
"""

from __future__ import annotations

import asyncio
import io
import random
import zipfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import DeniedError
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.timespan import DAY_US, TimeRange, parse_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.limits import limits_of
from lakehouse_ray.sources.binance.rest import BinanceRest, RestPolicy, read_again
from lakehouse_ray.sources.budget import Budget, Limit
from lakehouse_ray.sources.http import HttpClient, RetryPolicy
from lakehouse_ray.sources.rest import Fetched
from lakehouse_ray.testing.exchange import Faults, FolderArchive, ReplicaExchange, Rule
from lakehouse_ray.testing.exchange.api.limits import RateLimits

pytestmark = pytest.mark.integration

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
if not ARCHIVE.is_dir():
    pytest.skip("no real files here", allow_module_level=True)

WEIGHTS: dict[Market, int] = {"spot": 6000, "um": 2400, "cm": 2400}
BARS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
TRADES = (
    "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time",
    "is_buyer_maker",
)  # fmt: skip


@pytest.fixture(scope="module")
def exchange() -> Iterator[ReplicaExchange]:
    with ReplicaExchange(FolderArchive(ARCHIVE)) as replica:
        yield replica


def rows_of(folder: str, pattern: str, names: tuple[str, ...]) -> pl.DataFrame:
    """Rows of files, times in the archive's own unit brought to µs."""
    texts = []
    for path in sorted((ARCHIVE / folder).glob(pattern)):
        with zipfile.ZipFile(path) as zipped:
            texts.append(zipped.read(zipped.namelist()[0]))
    frames = [
        pl.read_csv(
            io.BytesIO(text), has_header=False, new_columns=list(names),
            skip_rows=0 if text[:1].isdigit() else 1,
        )
        for text in texts
    ]  # fmt: skip
    frame = pl.concat(frames)
    times = [name for name in names if name.endswith("_time")]
    return frame.with_columns(
        pl.when(pl.col(t) >= 10**15).then(pl.col(t)).otherwise(pl.col(t) * 1000) for t in times
    )


def same(found: Fetched, expected: pl.DataFrame) -> None:
    frame = pl.concat(found.rows.frames)
    columns = [name for name in expected.columns if name in frame.columns]
    assert len(columns) >= 7
    frame = frame.select(
        pl.col(n).dt.epoch("us") if frame.schema[n] == pl.Datetime("us", "UTC") else pl.col(n)
        for n in columns
    ).sort(columns[0])
    casts = {n: t for n, t in frame.schema.items() if t != pl.Boolean}
    wanted = expected.select(columns).cast(casts).sort(columns[0])  # type: ignore[arg-type]
    assert frame.height == wanted.height
    assert frame.equals(wanted)


def fetch(
    url: str,
    *fills: Fill,
    budget: Budget | None = None,
    policy: RestPolicy | None = None,
    timeout_s: float = 10.0,
    api_key: str = "",
) -> list[Fetched]:
    async def run() -> list[Fetched]:
        clock = SystemClock()
        http = HttpClient(8, timeout_s, RetryPolicy(), clock)
        try:
            rest = BinanceRest(
                http,
                budget or Budget(limits_of(WEIGHTS), clock),
                {"spot": url, "um": url, "cm": url},
                clock,
                policy=policy,
                rng=random.Random(1),
                api_key=api_key,
            )
            return list(await asyncio.gather(*(rest.fetch(fill) for fill in fills)))
        finally:
            await http.close()

    return asyncio.run(run())


def fill(
    market: Market, dataset: str, symbol: str, start: str, end: str, interval: str | None = None
) -> Fill:
    span = TimeRange(parse_time(start), parse_time(end))
    return Fill(market, dataset, symbol, interval, span, span.end_us + DAY_US)


def used(exchange: ReplicaExchange, market: str) -> int:
    return sum(exchange.told_limits()[market]["windows"].values())


def test_bars_are_those_of_the_files_cell_by_cell(exchange: ReplicaExchange) -> None:
    """Spot in ms and in µs, and futures; pages of the cheapest size."""
    before = used(exchange, "um")
    futures, spot, micro = fetch(
        exchange.url,
        fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-12", "1m"),
        fill("spot", "klines", "BTCUSDT", "2024-11-01", "2025-01-01", "1h"),
        fill("spot", "klines", "BTCUSDT", "2025-01-01", "2025-02-01", "1h"),
    )
    same(futures, rows_of("data/futures/um/daily/klines/BSVUSDT/1m", "*-2026-04-0[89].zip", BARS)
         .vstack(rows_of("data/futures/um/daily/klines/BSVUSDT/1m", "*-2026-04-1[01].zip", BARS)))  # fmt: skip
    assert not futures.reason
    assert not futures.rows.absent
    # 5,760 bars: eleven pages of 497 and one of 293, each of weight 2.
    assert len(futures.answers) == 12
    assert used(exchange, "um") - before == 24
    same(micro, rows_of("data/spot/monthly/klines/BTCUSDT/1h", "*-2025-01.zip", BARS))
    same(spot, rows_of("data/spot/monthly/klines/BTCUSDT/1h", "*-2024-1[12].zip", BARS))


def test_what_the_exchange_has_not_is_asked_for_twice_and_told(exchange: ReplicaExchange) -> None:
    """Two days of minutes that it lacks, in the middle of what is asked for."""
    [found] = fetch(exchange.url, fill("um", "klines", "BTCUSDT", "2026-04-03", "2026-04-07", "1m"))
    folder = "data/futures/um/daily/klines/BTCUSDT/1m"
    same(found, rows_of(folder, "*-2026-04-0[36].zip", BARS))
    absent = sorted(found.rows.absent)
    assert absent[0].start_us == parse_time("2026-04-04")
    assert absent[-1].end_us == parse_time("2026-04-06")
    assert all(one.end_us == two.start_us for one, two in pairwise(absent))


def test_agg_trades_are_those_of_the_files(exchange: ReplicaExchange) -> None:
    futures, coin = fetch(
        exchange.url,
        fill("um", "aggTrades", "BSVUSDT", "2026-04-10", "2026-04-11"),
        fill("cm", "aggTrades", "BTCUSD_PERP", "2026-05-08", "2026-05-08T02:00"),
    )
    same(futures, rows_of("data/futures/um/daily/aggTrades/BSVUSDT", "*-2026-04-10.zip", TRADES))
    whole = rows_of("data/futures/cm/daily/aggTrades/BTCUSD_PERP", "*-2026-05-08.zip", TRADES)
    until = parse_time("2026-05-08T02:00")
    same(coin, whole.filter(pl.col("transact_time") < until))
    assert not futures.reason
    assert not coin.reason


def test_funding_and_metrics_are_those_of_the_files() -> None:
    with ReplicaExchange(FolderArchive(ARCHIVE)) as replica:
        [found] = fetch(
            replica.url, fill("um", "fundingRate", "BTCUSDT", "2026-04-02", "2026-05-01")
        )
        names = ("calc_time", "funding_interval_hours", "last_funding_rate")
        files = rows_of("data/futures/um/monthly/fundingRate/BTCUSDT", "*.zip", names)
        files = files.filter(pl.col("calc_time") >= parse_time("2026-04-02"))
        frame = pl.concat(found.rows.frames)
        assert frame.select(pl.col("calc_time").dt.epoch("us"), *names[1:]).equals(files)


def test_answers_kept_give_the_same_rows_again(exchange: ReplicaExchange) -> None:
    fills = (
        fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-10", "1m"),
        fill("um", "klines", "BTCUSDT", "2026-04-03", "2026-04-05", "1m"),
        fill("um", "aggTrades", "BSVUSDT", "2026-04-10", "2026-04-10T06:00"),
    )
    for found in fetch(exchange.url, *fills):
        again = read_again(found.fill, found.answers)
        assert pl.concat(again.frames).equals(pl.concat(found.rows.frames))
        assert again.absent == found.rows.absent


def test_a_bar_that_is_open_is_left_out() -> None:
    """By the exchange's clock, though this machine's is of another year."""

    class Standing(SystemClock):
        def now_us(self) -> int:
            return parse_time("2026-04-09T12:00:30")

    with ReplicaExchange(FolderArchive(ARCHIVE), clock=Standing()) as replica:
        [found] = fetch(
            replica.url, fill("um", "klines", "BSVUSDT", "2026-04-09T11:00", "2026-04-10", "1m")
        )
    last = pl.concat(found.rows.frames)["open_time"].max()
    assert str(last).startswith("2026-04-09 11:59")
    assert found.rows.left_open >= 1


def test_a_symbol_that_is_not_known_is_skipped_with_a_reason(exchange: ReplicaExchange) -> None:
    unknown, known = fetch(
        exchange.url,
        fill("um", "klines", "NOSUCHUSDT", "2026-04-08", "2026-04-09", "1m"),
        fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-09", "1m"),
    )
    assert unknown.reason == "INVALID_SYMBOL"
    assert "-1121" in unknown.detail
    assert sum(frame.height for frame in known.rows.frames) == 1440


@pytest.mark.parametrize(
    ("fault", "params"),
    [
        ("html_page", {}),
        ("empty_body", {}),
        ("null_body", {}),
        ("empty_list", {}),
        ("cut_json", {"keep": 0.5}),
        ("server_error", {"status": 503}),
        ("reset", {}),
        ("short_body", {}),
        ("repeated_rows", {"rows": 5}),
        ("shuffled_rows", {}),
    ],
)
def test_what_is_spoiled_for_a_while_costs_no_row(fault: str, params: Mapping[str, object]) -> None:
    rule = Rule("fapi/v1/klines*", fault, times=1, **({"params": params} if params else {}))  # type: ignore[arg-type]
    with ReplicaExchange(FolderArchive(ARCHIVE), Faults((rule,))) as replica:
        [found] = fetch(
            replica.url, fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-09", "1m")
        )
    same(found, rows_of("data/futures/um/daily/klines/BSVUSDT/1m", "*-2026-04-08.zip", BARS))
    assert not found.reason
    assert not found.rows.absent


def test_nonsense_without_end_is_refused_and_the_rest_goes_on() -> None:
    rule = Rule("fapi/v1/klines?symbol=BSVUSDT*", "html_page")
    with ReplicaExchange(FolderArchive(ARCHIVE), Faults((rule,))) as replica:
        bad, good = fetch(
            replica.url,
            fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-09", "1m"),
            fill("um", "klines", "CLUSDT", "2026-04-15", "2026-04-16", "1m"),
            policy=RestPolicy(attempts_max=3),
        )
    assert bad.reason == "NOT_AN_ANSWER"
    assert bad.spoiled is not None
    assert b"<" in bad.spoiled.body
    assert good.rows.frames


def test_a_network_that_is_not_served_is_told_with_a_way_out() -> None:
    rule = Rule("fapi/*", "restricted")
    with (
        ReplicaExchange(FolderArchive(ARCHIVE), Faults((rule,))) as replica,
        pytest.raises(DeniedError) as caught,
    ):
        fetch(replica.url, fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-09", "1m"))
    assert "binance.um_url" in caught.value.hint  # type: ignore[attr-defined]


def test_a_ban_stops_everybody_until_it_ends() -> None:
    rule = Rule("fapi/v1/klines?symbol=BSVUSDT*", "banned", times=1, params={"ban_s": 2.0})
    with ReplicaExchange(FolderArchive(ARCHIVE), Faults((rule,))) as replica:
        started_s = SystemClock().monotonic_s()
        [found] = fetch(
            replica.url, fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-09", "1m")
        )
        told = replica.told_limits()["um"]
    assert not found.reason
    assert sum(frame.height for frame in found.rows.frames) == 1440
    assert told["while_banned"] == 0
    assert SystemClock().monotonic_s() - started_s > 2.0


def test_a_ban_beyond_patience_ends_the_fill_and_says_until_when() -> None:
    """What was had before stays."""
    rule = Rule("fapi/v1/klines*startTime=17757*", "banned", params={"ban_s": 7200.0})
    with ReplicaExchange(FolderArchive(ARCHIVE), Faults((rule,))) as replica:
        [found] = fetch(
            replica.url,
            fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-10", "1m"),
            policy=RestPolicy(quiet_max_s=60.0),
        )
    assert found.reason == "UNAVAILABLE"
    assert "7,2" in found.detail
    assert found.answers


def test_the_limits_are_kept_and_used() -> None:
    """A small limit: 30 a window of 2 s is allowed here, of which 24 are used."""
    clock = SystemClock()
    account = Budget({"um": (Limit("weight", 30, 2.0),)}, clock)
    with ReplicaExchange(
        FolderArchive(ARCHIVE), limits=RateLimits(weight_per_minute={"um": 2400})
    ) as replica:
        [found] = fetch(
            replica.url,
            fill("um", "klines", "BSVUSDT", "2026-04-08", "2026-04-20", "1m"),
            budget=account,
        )
        told = replica.told_limits()["um"]
    assert sum(frame.height for frame in found.rows.frames) == 12 * 1440
    assert told["refused"] == 0
