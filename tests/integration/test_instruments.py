"""exchangeInfo from the replica into the lake: history, refusals, identities, the universe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.recorded import publish

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import DeniedError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, day_range, parse_time, to_us
from lakehouse_ray.pipeline import instruments as pipeline
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.instruments import ingest_instruments
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import (
    Faults,
    FolderArchive,
    ReplicaExchange,
    RestAnswers,
    SyntheticArchive,
    made_of,
    recorded,
)

pytestmark = pytest.mark.integration

RECORDED = Path(__file__).parents[2].parent / "shared/data/recorded/rest_json"
UM = "fapi/v1/exchangeInfo"
SPOT = "api/v3/exchangeInfo"


def symbol(name: str, status: str = "TRADING", **more: Any) -> dict[str, Any]:
    quote = "USDT"
    return {
        "symbol": name,
        "status": status,
        "baseAsset": name.removesuffix(quote),
        "quoteAsset": quote,
        **more,
    }


def answer(*symbols: Any, server_time: int = 1) -> bytes:
    return json.dumps({"serverTime": server_time, "symbols": list(symbols)}).encode()


class Stage:
    """A replica exchange, its answers of REST, and a lake that asks it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "archive"
        (self.root / "data").mkdir(parents=True)
        self.rest = RestAnswers()
        self.exchange = ReplicaExchange(FolderArchive(self.root), rest=self.rest).start()
        url = self.exchange.url
        binance = {"archive_url": url, "spot_url": url, "um_url": url, "cm_url": url}
        fast = {"retry_attempts_max": 2, "retry_budget_s": 1.0}
        self.settings = Settings(home=folder / "home", binance=binance, ingest=fast)
        self.writer = Writer(self.settings)

    @property
    def lake(self) -> Lake:
        return Reader(self.settings).lake

    def sql(self, query: str) -> pl.DataFrame:
        return self.lake.sql(query).pl()

    def bars(self, market: str, name: str, days: list[date], trades: int = 5) -> None:
        """Daily files of hourly bars."""
        folder = {"spot": "spot", "um": "futures/um"}[market]
        for day in days:
            start = day_range(day).start_us
            lines = [
                f"{t // 1000},1,2,0.5,1.5,{2 * trades},{(t + HOUR_US) // 1000 - 1},15,{trades},5,7,0"
                for t in range(start, start + DAY_US, HOUR_US)
            ]
            publish(self.root, f"data/{folder}/daily/klines/{name}/1h/{name}-1h-{day}.zip", lines)

    def ingest_bars(self, market: str) -> None:
        ingest(self.writer, IngestRequest(Selection(KLINES, market, "1h")))  # type: ignore[arg-type]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.exchange.stop()


def days(first: str, count: int) -> list[date]:
    start = date.fromisoformat(first)
    return [start + timedelta(k) for k in range(count)]


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded answers beside")
@pytest.mark.parametrize(
    ("market", "route"), [("spot", SPOT), ("um", UM), ("cm", "dapi/v1/exchangeInfo")]
)
def test_recorded_answers_are_kept_byte_for_byte_and_told_again(
    tmp_path: Path, market: str, route: str
) -> None:
    stage = Stage(tmp_path)
    rest = recorded(RECORDED)
    sent = rest.answer(route, {}, 0)
    assert sent is not None
    stage.rest.put(route, sent[1])
    report = ingest_instruments(stage.writer, market)  # type: ignore[arg-type]
    stage.exchange.stop()
    truth = {item["symbol"]: item for item in json.loads(sent[1])["symbols"]}
    assert (report.files, report.partial) == (1, False)
    (kept,) = stage.sql("select path, state, url from bronze.objects").iter_rows()
    assert stage.writer.store.get(kept[0]) == sent[1]
    assert kept[1:] == ("built", f"{stage.exchange.url}/{route}")
    rows = stage.sql("select symbol, base_asset, status, tick_size, raw from silver.instruments")
    assert dict(rows.select("symbol", "base_asset").iter_rows()) == {
        name: item["baseAsset"] for name, item in truth.items()
    }
    assert {
        name: json.loads(raw) for name, raw in rows.select("symbol", "raw").iter_rows()
    } == truth
    told = {item["symbol"]: item for item in stage.lake.exchange_info(market)["symbols"]}
    assert {
        name: {k: v for k, v in item.items() if k != "lakehouse"} for name, item in told.items()
    } == truth
    assert not any(item["lakehouse"]["derived"] for item in told.values())


def test_a_second_run_adds_nothing_and_a_change_adds_what_has_changed(stage: Stage) -> None:
    stage.bars("um", "AUSDT", days("2024-03-01", 1))
    stage.rest.put(UM, answer(symbol("AUSDT"), symbol("BUSDT"), server_time=1))
    first = ingest_instruments(stage.writer, "um")
    stage.rest.put(UM, answer(symbol("AUSDT"), symbol("BUSDT"), server_time=2))
    second = ingest_instruments(stage.writer, "um")
    assert first.rows == 4  # two symbols, one listed symbol, one look at the listing
    assert (second.rows, second.files, second.skipped, second.commits) == (0, 0, 1, 0)
    stage.rest.put(UM, answer(symbol("AUSDT", "SETTLING"), symbol("CUSDT"), server_time=3))
    third = ingest_instruments(stage.writer, "um")
    assert third.rows == 3
    log = stage.sql(
        "select symbol, present, status, changed, valid_to is null as open, valid_from, valid_to, seen_until "
        "from silver.instrument_log order by symbol, valid_from"
    )
    assert log.select("symbol", "present", "status", "changed", "open").rows() == [
        ("AUSDT", True, "TRADING", None, False),
        ("AUSDT", True, "SETTLING", "status", True),
        ("BUSDT", True, "TRADING", None, False),
        ("BUSDT", False, None, "present,status,base_asset,quote_asset", True),
        ("CUSDT", True, "TRADING", None, True),
    ]
    before, after = log.row(0, named=True), log.row(1, named=True)
    assert before["valid_from"] == before["seen_until"] < before["valid_to"] == after["valid_from"]
    states = stage.sql("select symbol, status, gone_at is null from silver.instruments order by 1")
    assert states.rows() == [
        ("AUSDT", "SETTLING", True), ("BUSDT", "TRADING", False), ("CUSDT", "TRADING", True),
    ]  # fmt: skip
    versions = stage.sql("select count(*), count(*) filter (where current) from bronze.objects")
    assert versions.row(0) == (2, 1)
    asked = stage.lake.instruments("um", "AUSDT", at=before["valid_from"])
    assert asked["status"].to_list() == ["TRADING"]


def test_a_field_that_nobody_knows_is_kept_and_its_change_is_a_state(stage: Stage) -> None:
    stage.rest.put(UM, answer(symbol("AUSDT", fancy={"a": [1]})))
    ingest_instruments(stage.writer, "um")
    stage.rest.put(UM, answer(symbol("AUSDT", fancy={"a": [2]})))
    ingest_instruments(stage.writer, "um")
    log = stage.sql("select raw, changed from silver.instrument_log order by valid_from")
    assert [json.loads(raw)["fancy"] for raw in log["raw"]] == [{"a": [1]}, {"a": [2]}]
    assert log["changed"].to_list() == [None, "raw"]


def test_malformed_records_are_quarantined_and_make_nothing_absent(stage: Stage) -> None:
    stage.rest.put(UM, answer(symbol("AUSDT"), symbol("BUSDT"), symbol("CUSDT")))
    ingest_instruments(stage.writer, "um")
    stage.rest.put(UM, answer(symbol("AUSDT"), {"symbol": "BUSDT"}))
    report = ingest_instruments(stage.writer, "um")
    assert (report.rows_quarantined, report.partial) == (1, True)
    refused = stage.sql("select symbol, line, reason, source, raw from silver.quarantine")
    assert refused.rows() == [("BUSDT", 2, "MISSING_FIELD", "rest", '{"symbol":"BUSDT"}')]
    present = stage.sql("select symbol from silver.instruments where gone_at is null order by 1")
    assert present["symbol"].to_list() == ["AUSDT", "BUSDT"]
    stage.rest.put(UM, answer(symbol("DUSDT"), {"status": "TRADING"}))
    ingest_instruments(stage.writer, "um")
    present = stage.sql("select symbol from silver.instruments where gone_at is null order by 1")
    assert present["symbol"].to_list() == ["AUSDT", "BUSDT", "DUSDT"]


@pytest.mark.parametrize("body", [b"<html>", b'{"symbols":[]}', b'{"code":-1003,"msg":"no"}'])
def test_an_answer_that_is_none_is_refused_once_and_changes_nothing(
    stage: Stage, body: bytes
) -> None:
    stage.rest.put(UM, answer(symbol("AUSDT")))
    ingest_instruments(stage.writer, "um")
    stage.rest.put(UM, body)
    assert ingest_instruments(stage.writer, "um").quarantined == 1
    again = ingest_instruments(stage.writer, "um")
    assert (again.quarantined, again.rows, again.commits) == (0, 0, 0)
    assert stage.sql("select status, gone_at from silver.instruments").rows() == [("TRADING", None)]
    stage.rest.put(UM, answer(symbol("AUSDT")))
    back = ingest_instruments(stage.writer, "um")
    assert (back.files, back.rows) == (1, 0)


def test_where_rest_is_out_of_reach_the_listing_is_noted_and_the_error_told(stage: Stage) -> None:
    stage.bars("um", "AUSDT", days("2024-03-01", 1))
    rules = '{"rules": [{"match": "fapi/*", "fault": "denied", "status": 451}]}'
    stage.exchange.set_faults(Faults.parse(rules, "json"))
    with pytest.raises(DeniedError):
        ingest_instruments(stage.writer, "um")
    assert stage.sql("select dataset, symbol from silver.listing_log").rows() == [
        ("klines", "AUSDT")
    ]


def test_a_symbol_that_left_the_listing_is_said_to_be_gone(stage: Stage) -> None:
    stage.rest.put(UM, answer(symbol("AUSDT")))
    stage.bars("um", "AUSDT", days("2024-03-01", 1))
    stage.bars("um", "BUSDT", days("2024-03-01", 1))
    ingest_instruments(stage.writer, "um")
    for path in (stage.root / "data/futures/um/daily/klines/BUSDT/1h").iterdir():
        path.unlink()
    ingest_instruments(stage.writer, "um")
    log = stage.sql(
        "select symbol, gone_at is null, last_seen < gone_at from silver.listing_log order by 1"
    )
    assert log.rows() == [("AUSDT", True, None), ("BUSDT", False, True)]
    for path in (stage.root / "data/futures/um/daily/klines/AUSDT/1h").iterdir():
        path.unlink()
    assert ingest_instruments(stage.writer, "um").rows == 0


STEPS = ("store.put", "receive", "states", "quarantine", "built")


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_dies_anywhere_is_completed_by_the_next(
    stage: Stage, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.rest.put(UM, answer(symbol("AUSDT"), {"symbol": "BAD"}))

    class Died(BaseException):
        pass

    append, put = pipeline._Run._append, type(stage.writer.store).put
    names = {"states": "silver.instrument_states", "quarantine": "silver.quarantine_log"}

    def dying(run: Any, table: Any, rows: pl.DataFrame, what: str, *partition: str) -> None:
        append(run, table, rows, what, *partition)
        if table.name == names.get(step) or what.startswith(
            {"receive": "receive", "built": "build"}.get(step, "-")
        ):
            raise Died

    def dying_put(store: Any, path: str, data: bytes) -> None:
        put(store, path, data)
        if path.startswith("bronze/") and step == "store.put":
            raise Died

    with monkeypatch.context() as patched:
        patched.setattr(pipeline._Run, "_append", dying)
        patched.setattr(type(stage.writer.store), "put", dying_put)
        patched.setattr(pipeline._Run, "_list", lambda run: None)
        with pytest.raises(Died):
            ingest_instruments(stage.writer, "um")
    received = stage.sql("select min(seen_at) from bronze.object_log").item()
    ingest_instruments(stage.writer, "um")
    log = stage.sql("select symbol, valid_from, valid_to from silver.instrument_log")
    assert log.select("symbol", "valid_to").rows() == [("AUSDT", None)]
    if received is not None:  # it was in the ledger: its own time counts
        assert log["valid_from"].item() == received
    assert stage.sql("select state from bronze.objects").rows() == [("built",)]
    assert stage.sql("select symbol from silver.quarantine").rows() == [("BAD",)]
    assert stage.sql("select count(*) from silver.instrument_states").item() == 1
    assert ingest_instruments(stage.writer, "um").commits == 0


def test_a_re_used_ticker_gives_two_identities_and_two_universes(stage: Stage) -> None:
    everything = days("2022-05-01", 40)
    stage.bars("um", "BTCUSDT", everything)
    stage.bars("um", "LUNAUSDT", [*everything[:12], *everything[30:]])
    stage.ingest_bars("um")
    # Nothing tells whether the files between are only not here.
    (one,) = stage.lake.identities("um", "LUNAUSDT").rows(named=True)
    assert (one["identity"], one["unexplained_holes"]) == ("LUNAUSDT", 1)
    between = stage.lake.universe("um", "2022-05-20")
    assert dict(between.select("symbol", "evidence").iter_rows()) == {
        "BTCUSDT": "rows", "LUNAUSDT": "rows_around",
    }  # fmt: skip
    onboard = parse_time("2022-05-31T06:00")
    stage.rest.put(
        UM,
        answer(
            symbol("LUNAUSDT", contractType="PERPETUAL", onboardDate=onboard // 1000),
            symbol(
                "BTCUSDT", contractType="PERPETUAL", onboardDate=parse_time("2019-09-25") // 1000
            ),
        ),
    )
    ingest_instruments(stage.writer, "um")
    old, new = stage.lake.identities("um", "LUNAUSDT").rows(named=True)
    assert (old["identity"], new["identity"]) == ("LUNAUSDT", "LUNAUSDT@2022-05-31")
    assert (new["same_as_before"], to_us(new["begins"])) == ("no", onboard)
    assert to_us(old["ends"]) == parse_time("2022-05-13")

    def at(moment: str) -> list[tuple[str, str]]:
        found = stage.lake.universe("um", moment, quote="USDT", kind="perpetual")
        return list(found.select("identity", "evidence").iter_rows())

    bitcoin = "BTCUSDT@2019-09-25"
    assert at("2022-05-12") == [(bitcoin, "rows,onboard_date"), ("LUNAUSDT", "rows")]
    assert at("2022-05-20") == [(bitcoin, "rows,onboard_date")]
    assert at("2022-06-02") == [
        (bitcoin, "rows,onboard_date"), ("LUNAUSDT@2022-05-31", "rows,onboard_date"),
    ]  # fmt: skip
    assert at("2021-01-01") == [(bitcoin, "onboard_date")]
    assert stage.lake.universe("um", "2022-05-12", quote="USDC").is_empty()


def test_a_symbol_that_stands_still_alone_inside_a_verified_file_may_be_another_after(
    stage: Stage,
) -> None:
    for name, gone in (("BTCUSDT", ()), ("LUNAUSDT", range(13, 31))):
        lines = [
            f"{t // 1000},1,2,0.5,1.5,10,{(t + HOUR_US) // 1000 - 1},15,5,5,7,0"
            for day in days("2022-05-01", 31)
            if day.day not in gone
            for t in range(day_range(day).start_us, day_range(day).end_us, HOUR_US)
        ]
        key = f"data/spot/monthly/klines/{name}/1h/{name}-1h-2022-05.zip"
        publish(stage.root, key, lines)
    stage.ingest_bars("spot")
    old, new = stage.lake.identities("spot", "LUNAUSDT").rows(named=True)
    assert (old["identity"], new["identity"]) == ("LUNAUSDT", "LUNAUSDT@2022-05-31")
    assert new["same_as_before"] == "unknown"
    assert "stood still" in new["begin_evidence"]
    assert stage.lake.universe("spot", "2022-05-20")["symbol"].to_list() == ["BTCUSDT"]


def test_flat_bars_after_the_end_and_a_status_of_then_are_no_trading(stage: Stage) -> None:
    stage.bars("spot", "FTMUSDT", days("2025-01-01", 10))
    stage.bars("spot", "FTMUSDT", days("2025-01-11", 10), trades=0)
    stage.bars("spot", "BTCUSDT", days("2025-01-01", 20))
    stage.ingest_bars("spot")
    assert stage.lake.universe("spot", "2025-01-10")["symbol"].to_list() == ["BTCUSDT", "FTMUSDT"]
    assert stage.lake.universe("spot", "2025-01-12")["symbol"].to_list() == ["BTCUSDT"]
    stage.rest.put(SPOT, answer(symbol("BTCUSDT", "BREAK"), symbol("FTMUSDT")))
    ingest_instruments(stage.writer, "spot")
    now = stage.lake.universe("spot")
    assert now.select("symbol", "status", "evidence").rows() == [
        ("FTMUSDT", "TRADING", "exchange_info")
    ]
    assert stage.lake.universe("spot", datetime(2025, 1, 10, tzinfo=UTC)).height == 2


def test_without_an_answer_exchange_info_is_derived_and_says_so(stage: Stage) -> None:
    stage.bars("spot", "BTCUSDT", days("2025-01-01", 20))
    stage.bars("spot", "OLDBNB", days("2025-01-01", 2))
    stage.ingest_bars("spot")
    told = {item["symbol"]: item for item in stage.lake.exchange_info("spot")["symbols"]}
    assert {n: (i["status"], i["baseAsset"], i["quoteAsset"]) for n, i in told.items()} == {
        "BTCUSDT": ("TRADING", "BTC", "USDT"), "OLDBNB": ("BREAK", "OLD", "BNB"),
    }  # fmt: skip
    assert all(item["lakehouse"]["derived"] for item in told.values())
    assert told["OLDBNB"]["lakehouse"]["lastRow"] == "2025-01-02T23:00:00Z"
    stage.rest.put(SPOT, answer(symbol("BTCUSDT")))
    ingest_instruments(stage.writer, "spot")
    told = {item["symbol"]: item for item in stage.lake.exchange_info("spot")["symbols"]}
    assert [told[name]["lakehouse"]["derived"] for name in ("BTCUSDT", "OLDBNB")] == [False, True]


def test_of_an_unknown_market_nothing_is_said(stage: Stage) -> None:
    for ask in (stage.lake.universe, stage.lake.exchange_info):
        with pytest.raises(NotFoundError):
            ask("um")
        with pytest.raises(InvalidError):
            ask("moon")
    assert stage.lake.identities("um").is_empty()
    assert stage.lake.instruments("um").is_empty()


def test_a_synthetic_exchange_says_what_it_trades(tmp_path: Path) -> None:
    archive = SyntheticArchive(start=date(2024, 5, 1), end=date(2024, 7, 3))
    rest = made_of(archive.instruments, date(2024, 7, 3))
    with ReplicaExchange(archive, rest=rest) as exchange:
        url = exchange.url
        urls = dict.fromkeys(("archive_url", "spot_url", "um_url", "cm_url"), url)
        settings = Settings(home=tmp_path / "home", binance=urls)
        for market in ("spot", "um", "cm"):
            ingest_instruments(Writer(settings), market)  # type: ignore[arg-type]
            assert ingest_instruments(Writer(settings), market).rows == 0  # type: ignore[arg-type]
    lake = Reader(settings).lake
    statuses = dict(lake.instruments("spot").select("symbol", "status").iter_rows())
    assert statuses["FTMUSDT"] == "BREAK"
    assert statuses["BTCUSDT"] == "TRADING"
    um = lake.instruments("um")["symbol"].to_list()
    assert "BTCUSDT_240628" not in um
    assert "币安人生USDT" in um
    listed = lake.sql("select distinct symbol from silver.listing_log where market = 'um'").pl()
    assert {"FTMUSDT", "BTCUSDT_240628"} <= set(listed["symbol"])


def test_an_exchange_that_does_not_answer_is_told_as_such(stage: Stage) -> None:
    rules = '{"rules": [{"match": "fapi/*", "fault": "server_error"}]}'
    stage.exchange.set_faults(Faults.parse(rules, "json"))
    with pytest.raises(UnavailableError):
        ingest_instruments(stage.writer, "um")


@pytest.mark.parametrize("status", [418, 429])
def test_an_exchange_that_asks_for_quiet_is_asked_again_after_it(stage: Stage, status: int) -> None:
    rule = {
        "match": "fapi/*",
        "fault": "throttled",
        "status": status,
        "retry_after_s": 1,
        "times": 1,
    }
    stage.exchange.set_faults(Faults.parse(json.dumps({"rules": [rule]}), "json"))
    stage.rest.put(UM, answer(symbol("AUSDT")))
    started_s = time.monotonic()
    assert ingest_instruments(stage.writer, "um").files == 1
    assert time.monotonic() - started_s >= 1
