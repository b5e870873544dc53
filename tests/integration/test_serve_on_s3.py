"""The query service over a lake in a bucket: it answers what the same lake on a disk does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars
from support.buckets import KEY_ID, SECRET, Bucket, moto
from support.served import Reply, Served, serving

from lakehouse_ray.serve.limits import Limits

pytestmark = pytest.mark.integration

BTC = {"symbol": "BTCUSDT", "interval": "1h", "start": "2024-01-02", "end": "2024-01-05"}
SUMS = (
    "select symbol, interval, count(*) as bars, sum(close) as closes, max(open_time) as latest "
    "from silver.klines group by all order by all"
)


@dataclass(frozen=True)
class Both:
    """The same rows on a disk and in a bucket, each behind a service."""

    here: Served
    there: Served
    bucket: Bucket
    home: Path

    @property
    def copies(self) -> list[Path]:
        return list((self.home / "tmp/sql-files").rglob("*.parquet"))


def fill(home: Path) -> None:
    BarLake(home).put(
        bars("BTCUSDT", "2024-01-01", 6), bars("ETHUSDT", "2024-01-01", 6),
        bars("BTCUSDT", "2024-01-01", 2, interval="1m"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    local, remote = (tmp_path_factory.mktemp(name) / "home" for name in ("here", "there"))
    fill(local)
    with serving(local) as here, moto() as bucket, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in bucket.settings("lake").items():
            patched.setenv(f"LAKEHOUSE_{name}", value)
        fill(remote)
        with serving(remote) as there:
            yield Both(here, there, bucket, remote)


def ask(served: Served, query: str, **more: Any) -> Reply:
    body = json.dumps({"query": query, **more}).encode()
    return served.post("/v1/sql", body, {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/ready", {}),
        ("/v1/datasets", {}),
        ("/v1/klines", BTC),
        ("/v1/klines", {**BTC, "indicators": "sma_20"}),
        ("/v1/klines", {**BTC, "interval": "4h", "from": "1h"}),
        ("/v1/aggTrades", {"symbol": "BTCUSDT"}),
        ("/v1/coverage", {"interval": "1h"}),
        ("/v1/gaps", {"interval": "1h"}),
        ("/v1/quality", {}),
        ("/v1/universe", {"market": "spot", "at": "2024-01-03"}),
        ("/v1/instruments", {"market": "spot"}),
        ("/v1/identities", {"market": "spot"}),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1h"}),
    ],
)
def test_every_question_is_answered_as_on_a_disk(
    both: Both, path: str, query: dict[str, object]
) -> None:
    here, there = (served.get(path, **query) for served in (both.here, both.there))
    # Nothing is stored of aggTrades.
    assert there.status == here.status == (404 if path == "/v1/aggTrades" else 200), there.body
    assert _told(there) == _told(here)


def test_why_is_answered_as_on_a_disk(both: Both) -> None:
    """What it tells of snapshots and files is each lake's own."""
    asked = {"symbol": "BTCUSDT", "interval": "1h", "at": "2024-01-03"}
    here, there = (served.get("/v1/why", **asked) for served in (both.here, both.there))
    assert there.status == here.status == 200, there.body
    assert {*there.json} == {*here.json}


def _told(reply: Reply) -> object:
    """All but what differs between two lakes: ids of snapshots, times of commits."""
    told = reply.json
    if isinstance(told, dict):
        told = {k: v for k, v in told.items() if k not in ("as_of", "request_id", "next")}
        if "datasets" in told:
            told = [(one["dataset"], one.get("rows")) for one in told["datasets"]]
    return told


def test_sql_is_answered_from_copies_that_are_asked_for_once(both: Both) -> None:
    wanted = ask(both.here, SUMS).json["rows"]
    got = ask(both.there, SUMS)
    assert got.status == 200, got.body
    assert got.json["rows"] == wanted
    assert len(wanted) == 3
    assert got.headers["Lakehouse-Snapshots"].count("@") >= 2
    first = {path: path.stat().st_mtime_ns for path in both.copies}
    assert first
    assert ask(both.there, SUMS).json["rows"] == wanted
    assert {path: path.stat().st_mtime_ns for path in both.copies} == first


def test_only_what_a_statement_can_want_is_copied(both: Both) -> None:
    """Two files of silver.klines are there: of bars of 1h, and of 1m."""
    query = "select count(*) as n, min(symbol) as s from silver.klines where "
    before = {path.parent for path in both.copies}
    with serving(both.home) as fresh:
        for condition, parameters, copied in (
            ("interval = '1m' and open_time >= '2025-01-01'", None, 0),
            ("interval = '1h' and symbol = 'ETHUSDT'", None, 1),
            ("interval = ? and market = 'spot' and open_time < '2024-01-03'", ["1h"], 1),
            ("interval = '1h' or close > 0", None, 2),
        ):
            reply = ask(fresh, query + condition, parameters=parameters)
            assert reply.status == 200, reply.body
            wanted = ask(both.here, query + condition, parameters=parameters)
            assert reply.json["rows"] == wanted.json["rows"]
            new = [path for path in both.copies if path.parent not in before]
            assert len(new) == copied, condition


def test_its_process_gets_neither_credentials_nor_other_files(both: Both) -> None:
    secret = both.home / "secret.csv"
    secret.write_text("k\n1\n")
    for query in (
        f"select * from read_csv('{secret}')",
        f"select * from read_parquet('s3://{both.bucket.name}/lake/**')",
        "select * from duckdb_secrets()",
    ):
        reply = ask(both.there, query)
        assert reply.status == 422
        assert KEY_ID not in reply.body.decode()
        assert SECRET not in reply.body.decode()


def test_a_table_beyond_the_room_is_refused_with_a_way_out(both: Both) -> None:
    """What reads no rows needs no files."""
    with serving(both.home, Limits(sql_files_bytes_max=1000)) as small:
        reply = ask(small, SUMS)
        assert reply.status == 422
        assert reply.json["code"] == "too_large"
        assert "sql_files_bytes_max" in reply.json["hint"]
        assert ask(small, "select 1 as one").json["rows"] == [{"one": 1}]
        described = ask(small, "DESCRIBE silver.klines").json["rows"]
        assert described == ask(both.here, "describe silver.klines").json["rows"]
    with serving(both.home, Limits(sql_files_bytes_max=0)) as none:
        assert ask(none, "select 1").status == 404


def test_a_file_that_was_changed_in_the_bucket_is_no_answer(both: Both, tmp_path: Path) -> None:
    client = both.bucket.client
    (key,) = [key for key in both.bucket.objects() if "klines_coarse/data" in key]
    whole = client.get_object(Bucket=both.bucket.name, Key=key)["Body"].read()
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 1
    try:
        for content in (bytes(changed), whole[:-100]):
            client.put_object(Bucket=both.bucket.name, Key=key, Body=content)
            with serving(both.home) as fresh:
                reply = ask(fresh, "select sum(close) from silver.klines_coarse")
                assert reply.status == 503
                assert key not in reply.body.decode()
    finally:
        client.put_object(Bucket=both.bucket.name, Key=key, Body=whole)
    assert ask(both.there, SUMS).status == 200
