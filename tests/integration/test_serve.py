"""The query service under a real server: what it answers is held against pyiceberg's own reading."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import hashlib
import io
import itertools
import json
import math
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars
from support.commands import environment
from support.forked import completed, popen
from support.served import Reply, Served, serving

import lakehouse_ray as lh
from lakehouse_ray.access.keys import KeyFile, KeyRing
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.serve.limits import Limits

pytestmark = pytest.mark.integration

BTC: dict[str, object] = {"symbol": "BTCUSDT", "interval": "1h"}
MINUTES: dict[str, object] = {"symbol": "BTCUSDT", "interval": "1m"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("serve") / "home"
    lake = BarLake(home)
    lake.put(
        bars("BTCUSDT", "2024-01-01", 40), bars("ETHUSDT", "2024-01-01", 40),
        bars("BTCUSDT", "2024-01-01", 3, interval="1m"),
    )  # fmt: skip
    return home


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home) as served:
        yield served


def stored(home: Path, table: str, symbol: str) -> pl.DataFrame:
    """What pyiceberg alone reads."""
    return BarLake(home).rows(table).filter(pl.col("symbol") == symbol).sort("open_time")


def ids(reply: Reply) -> str:
    return str(reply.headers["Lakehouse-Snapshots"])


def assert_whole(reply: Reply, rows: int) -> None:
    assert reply.status == 200, reply.body
    assert int(reply.headers["Lakehouse-Rows"]) == rows
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    digest = base64.b64encode(hashlib.sha256(reply.body).digest()).decode()
    assert reply.headers["Content-Digest"] == f"sha-256=:{digest}:"


def frame_of(reply: Reply) -> pl.DataFrame:
    found = pl.from_arrow(pa.ipc.open_stream(reply.body).read_all())
    assert isinstance(found, pl.DataFrame)
    return found


def test_every_format_has_the_stored_rows(home: Path, served: Served) -> None:
    wanted = stored(home, "silver.klines_coarse", "BTCUSDT")
    span = {"start": "2024-01-02", "end": "2024-01-09T12:00"}
    times = pl.col("open_time").dt.strftime("%Y-%m-%dT%H:%M:%S")
    wanted = wanted.filter((times >= "2024-01-02") & (times < "2024-01-09T12:00:00"))
    assert 100 < wanted.height < 180
    names = wanted.columns

    arrow = served.get("/v1/klines", **BTC, **span, format="arrow")
    assert_whole(arrow, wanted.height)
    assert arrow.headers["Content-Type"] == "application/vnd.apache.arrow.stream"
    assert_frame_equal(frame_of(arrow).select(names), wanted)

    parquet = served.get("/v1/klines", {"Accept": "application/vnd.apache.parquet"}, **BTC, **span)
    assert_whole(parquet, wanted.height)
    read = pl.from_arrow(pq.read_table(io.BytesIO(parquet.body)))
    assert isinstance(read, pl.DataFrame)
    assert_frame_equal(read.select(names), wanted)

    expected = [
        row | {"open_time": f"{row['open_time']:%Y-%m-%dT%H:%M:%SZ}"}
        for row in wanted.select("open_time", "close", "trades").iter_rows(named=True)
    ]
    picked = {**BTC, **span, "columns": "open_time,close,trades"}
    document = served.get("/v1/klines", **picked)
    assert_whole(document, wanted.height)
    assert document.json["rows"] == expected
    assert document.json["row_count"] == wanted.height
    assert document.json["next"] is None
    assert document.json["as_of"] == ids(document)

    lines = served.get("/v1/klines", {"Accept": "text/html, application/x-ndjson;q=0.9"}, **picked)
    assert_whole(lines, wanted.height)
    assert [json.loads(line) for line in lines.body.splitlines()] == expected

    table = served.get("/v1/klines", {"Accept": "text/csv, application/json;q=0.5"}, **picked)
    assert_whole(table, wanted.height)
    rows = list(csv.DictReader(io.StringIO(table.body.decode())))
    assert [float(row["close"]) for row in rows] == [row["close"] for row in expected]
    assert [row["open_time"] for row in rows] == [row["open_time"] for row in expected]


def pages(served: Served, **query: object) -> Iterator[Reply]:
    reply = served.get("/v1/klines", **query)
    while True:
        yield reply
        following = reply.headers.get("Link")
        if following is None:
            return
        path = following.partition("<")[2].partition(">")[0]
        assert following.endswith('rel="next"')
        reply = served.send(urllib.request.Request(served.url + path))


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_pages_put_together_are_all_rows_once(home: Path, served: Served, limit: int) -> None:
    span = {"start": "2024-01-01", "end": "2024-01-02" if limit == 1 else "2024-01-20"}
    found = [frame_of(page) for page in pages(served, **BTC, **span, limit=limit, format="arrow")]
    assert all(page.height == limit for page in found[:-1])
    whole = frame_of(served.get("/v1/klines", **BTC, **span, format="arrow"))
    assert_frame_equal(pl.concat(found), whole)
    assert whole["open_time"].is_sorted()


def test_a_commit_between_two_pages_changes_none_of_them(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "home")
    lake.put(bars("BTCUSDT", "2024-01-01", 2), bars("BTCUSDT", "2024-01-05", 2))
    with serving(lake.home) as served:
        before = frame_of(served.get("/v1/klines", **BTC, format="arrow"))
        walk = pages(served, **BTC, limit=20, format="arrow")
        first = next(walk)
        lake.put(bars("BTCUSDT", "2024-01-03", 2, seed=1))
        rest = list(walk)
        assert len({ids(page) for page in (first, *rest)}) == 1
        assert_frame_equal(pl.concat(map(frame_of, (first, *rest))), before)
        after = served.get("/v1/klines", **BTC, format="arrow")
        assert frame_of(after).height > before.height
        # The versions that an answer names give it again.
        again = served.get("/v1/klines", **BTC, format="arrow", as_of=ids(first))
        assert_frame_equal(frame_of(again), before)
        assert "immutable" in again.headers["Cache-Control"]
        assert "immutable" not in after.headers["Cache-Control"]


def test_days_that_are_over_need_not_be_asked_for_again_at_once(home: Path, served: Served) -> None:
    def held(served: Served, **query: object) -> str:
        return str(served.get("/v1/klines", **BTC, **query).headers["Cache-Control"])

    today = dt.datetime.now(dt.UTC).date()
    for end in ("2024-01-02", today - dt.timedelta(days=1)):
        assert held(served, start="2024-01-01", end=end) == "private, max-age=60, immutable"
    for end in (today, today + dt.timedelta(days=1)):
        assert held(served, start="2024-01-01", end=end) == "private, no-cache"
    assert held(served, start="2024-01-01") == "private, no-cache"
    with serving(home, Limits(closed_days_held_s=0)) as asking:
        assert held(asking, start="2024-01-01", end="2024-01-02") == "private, no-cache"


def test_an_etag_holds_until_a_commit(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "home")
    lake.put(bars("BTCUSDT", "2024-01-01", 2))
    with serving(lake.home) as served:
        first = served.get("/v1/klines", **BTC)
        tag = first.headers["ETag"]
        same = served.get("/v1/klines", {"If-None-Match": f'"other", W/{tag}'}, **BTC)
        assert (same.status, same.body) == (304, b"")
        assert same.headers["ETag"] == tag
        # Another format, another range, another page: other answers.
        others = [
            served.get("/v1/klines", {"If-None-Match": tag}, **BTC, **more)
            for more in ({"format": "csv"}, {"end": "2024-01-02"}, {"limit": 5})
        ]
        assert [other.status for other in others] == [200, 200, 200]
        lake.put(bars("ETHUSDT", "2024-01-01", 2))
        assert served.get("/v1/klines", {"If-None-Match": tag}, **BTC).status == 200


def test_a_remembered_answer_is_the_same_and_never_stale(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "home")
    lake.put(bars("BTCUSDT", "2024-01-01", 2))
    with serving(lake.home) as served:
        first, second = (served.get("/v1/klines", **BTC, limit=9) for _ in range(2))
        assert first.body == second.body
        for name in ("ETag", "Lakehouse-Rows", "Lakehouse-Next", "Content-Digest", "Link"):
            assert first.headers[name] == second.headers[name]
        assert (
            b'lakehouse_answers_remembered_hits_total{level="memory"} 1.0'
            in served.get("/metrics").body
        )
        lake.put(bars("BTCUSDT", "2023-12-31", 1, seed=2))
        third = served.get("/v1/klines", **BTC, limit=9)
        assert third.json["rows"][0]["open_time"].startswith("2023-12-31")


def test_indicators_and_resampled_bars_are_those_of_the_sdk(home: Path, served: Served) -> None:
    lake = lh.connect(home)
    span = ("2024-01-10", "2024-01-20")
    asked: dict[str, object] = dict(zip(("start", "end"), span, strict=True))
    names = "sma_20,macd_12_26_9"
    wanted = lake.indicators("BTCUSDT", "1h", names, *span, warmup=100).collect()
    got = served.get("/v1/klines", **BTC, **asked, indicators=names, warmup=100, format="arrow")
    assert_frame_equal(frame_of(got), wanted)
    assert wanted["sma_20"].drop_nulls().len() > 100

    made = lake.resample("BTCUSDT", "4h", *span, source="1h", offset="0m,1h").collect()
    query: dict[str, object] = {**BTC, "interval": "4h", "from": "1h", "offset": "0m,1h"}
    got = served.get("/v1/klines", **query, **asked, format="arrow")
    assert_frame_equal(frame_of(got), made)
    assert made.height > 60
    (row,) = served.get("/v1/klines", **query, start="2024-01-10", end="2024-01-10T02:00",
                        columns="open").json.get("errors", [1])  # fmt: skip
    assert row == 1  # columns and from exclude each other


def test_facts_are_those_of_the_sdk(home: Path, served: Served) -> None:
    lake = lh.connect(home)
    found = served.get("/v1/gaps", market="spot", dataset="klines", interval="1h", format="arrow")
    wanted = lake.gaps("spot", "klines", interval="1h")
    assert wanted.height > 5
    assert frame_of(found)["start"].to_list() == wanted["start_time"].to_list()
    assert frame_of(found)["cause"].to_list() == wanted["cause"].to_list()

    covered = frame_of(served.get("/v1/coverage", symbols="ETHUSDT", format="arrow"))
    assert_frame_equal(covered, lake.coverage(symbols="ETHUSDT"))

    document = served.get("/v1/datasets").json
    (klines,) = [one for one in document["datasets"] if one["dataset"] == "klines"]
    assert {(one["interval"], one["symbols"]) for one in klines["stored"]} == {("1h", 2), ("1m", 1)}

    versions = served.get("/v1/snapshots", table="silver.klines_fine").json["rows"]
    assert [row["current"] for row in versions] == [True]
    assert f"silver.klines_fine@{versions[0]['snapshot_id']}" in ids(
        served.get("/v1/klines", **BTC)
    )
    assert served.get("/v1/quality", market="spot").json["rows"] == []


def test_state(served: Served) -> None:
    assert served.get("/health").json["status"] == "ok"
    assert served.get("/ready").json == {"status": "ready"}
    assert served.get("/openapi.json").json["paths"]["/v1/klines"]["get"]["parameters"]


def test_a_lake_that_is_not_there_is_empty_and_ready(tmp_path: Path) -> None:
    with serving(tmp_path / "none") as served:
        assert served.get("/ready").status == 200
        reply = served.get("/v1/klines", **BTC)
        assert (reply.status, reply.json["code"]) == (404, "not_found")
        assert not (tmp_path / "none").exists()


def test_a_catalog_that_cannot_be_read_is_not_ready(tmp_path: Path) -> None:
    home = tmp_path / "home"
    BarLake(home).put(bars("BTCUSDT", "2024-01-01", 1))
    (home / "catalog.db").write_bytes(b"not a database" * 100)
    with serving(home) as served:
        assert served.get("/health").status == 200
        for reply in (served.get("/ready"), served.get("/v1/klines", **BTC)):
            assert (reply.status, reply.json["code"]) == (503, "unavailable")
            assert reply.headers["Retry-After"]
            assert str(home).encode() not in reply.body


WRONG: list[tuple[str, dict[str, object], int, str]] = [
    ("/v1/klines", {"symbol": "BTCUSD", "interval": "1h"}, 404, "did you mean BTCUSDT"),
    ("/v1/klines", {"symbol": "BTCUSDT", "interval": "7m"}, 422, "one of 1s"),
    ("/v1/klines", {"symbol": "BTCUSDT"}, 422, ""),
    ("/v1/klines", {"interval": "1h"}, 422, ""),
    ("/v1/klines", {**BTC, "start": "2024-02", "end": "2024-01"}, 422, "half-open"),
    ("/v1/klines", {**BTC, "start": "soon"}, 422, "ISO"),
    ("/v1/klines", {**BTC, "start": "9999-12-31"}, 422, "1970 to 2200"),
    ("/v1/klines", {**BTC, "intervall": "1m"}, 422, ""),
    ("/v1/klines", {**BTC, "limit": 0}, 422, ""),
    ("/v1/klines", {**BTC, "limit": "many"}, 422, ""),
    ("/v1/klines", {**BTC, "limit": 10**20}, 422, ""),
    ("/v1/klines", {**BTC, "interval": "4h"}, 404, "BTCUSDT is stored at 1m, 1h"),
    ("/v1/klines", {**BTC, "market": "cm"}, 404, "nothing of cm klines 1h is stored"),
    ("/v1/klines", {**BTC, "start": "2024-02-30"}, 422, "openapi"),
    ("/v1/klines", {**BTC, "market": "moon"}, 422, "spot, um, cm"),
    ("/v1/klines", {**BTC, "columns": "open,secret"}, 422, "its columns"),
    ("/v1/klines", {**BTC, "cursor": "AAAA"}, 422, "begin without one"),
    ("/v1/klines", {**BTC, "cursor": "é"}, 422, "begin without one"),
    ("/v1/klines", {**BTC, "as_of": "a@b"}, 422, "Lakehouse-Snapshots"),
    ("/v1/klines", {**BTC, "as_of": "²²²²²²"}, 422, "ISO"),
    ("/v1/klines", {**BTC, "as_of": "silver.klines_fine@5"}, 422, "same"),
    ("/v1/klines", {**BTC, "as_of": "silver.klines_fine@5,silver.klines_coarse@7"}, 410, "anew"),
    ("/v1/klines", {**BTC, "as_of": "123456789"}, 404, ""),
    ("/v1/klines", {**BTC, "format": "xml"}, 422, ""),
    ("/v1/klines", {**BTC, "symbol": "x\x00'; drop"}, 422, "BTCUSDT"),
    ("/v1/klines", {**BTC, "indicators": "sma_20", "limit": 5}, 422, "narrow"),
    ("/v1/klines", {**BTC, "indicators": "sma_x"}, 422, ""),
    ("/v1/klines", {**BTC, "offset": "5m"}, 422, "from"),
    ("/v1/klines", {**BTC, "from": "1d"}, 422, ""),
    ("/v1/aggTrades", {**BTC}, 422, ""),
    ("/v1/aggTrades", {"symbol": "BTCUSDT"}, 404, ""),
    ("/v1/klinez", {**BTC}, 404, "did you mean /v1/klines?"),
    ("/v1/gaps", {"market": "um"}, 404, ""),
    ("/v1/snapshots", {"table": "silver.kline_fine"}, 404, "silver.klines_fine"),
    ("/nowhere", {}, 404, "openapi"),
]


@pytest.mark.parametrize(("path", "query", "status", "hint"), WRONG)
def test_wrong_questions_have_one_shape_of_answer(
    served: Served, path: str, query: dict[str, object], status: int, hint: str
) -> None:
    reply = served.get(path, {"X-Request-Id": "mine-1"}, **query)
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    problem = reply.json
    assert problem["status"] == status
    assert problem["hint"]
    assert hint in problem["hint"]
    assert problem["detail"]
    assert problem["request_id"] == reply.headers["X-Request-Id"] == "mine-1"
    assert "Traceback" not in reply.body.decode()
    assert reply.headers["Cache-Control"] == "no-store"


def test_other_methods_and_formats_are_refused(served: Served) -> None:
    refused = served.post("/v1/klines", b"{}")
    assert (refused.status, refused.json["code"]) == (405, "method_not_allowed")
    assert refused.headers["Allow"] == "GET"
    image = served.get("/v1/klines", {"Accept": "image/png"}, **BTC)
    assert (image.status, image.json["code"]) == (406, "not_acceptable")
    twice = served.send(urllib.request.Request(f"{served.url}/v1/gaps?market=spot&market=um"))
    assert (twice.status, "market" in twice.json["detail"]) == (422, True)
    made = served.get("/health", {"X-Request-Id": "bad id\tx"})
    assert len(made.headers["X-Request-Id"]) == 32


def test_a_name_of_somebody_else_is_not_answered(home: Path) -> None:
    """A page in a browser may call this machine by a name of its own."""
    with serving(home, hosts=("127.0.0.1", "localhost")) as served:
        assert served.get("/v1/klines", **BTC).status == 200
        reply = served.get("/v1/klines", {"Host": "evil.example:8080"}, **BTC)
        assert (reply.status, reply.json["code"]) == (421, "wrong_host")


def test_large_answers_are_pages_or_errors_and_never_parts(home: Path) -> None:
    with serving(home, Limits(rows_max=50, answer_bytes_max=40_000)) as served:
        reply = served.get("/v1/klines", **BTC)
        assert (reply.status, reply.json["code"]) == (422, "too_large")
        assert "limit" in reply.json["hint"]
        # More than may be is as much as may be, and says where to go on.
        page = served.get("/v1/klines", **BTC, limit=1000, columns="close")
        assert_whole(page, 50)
        assert page.json["next"] == page.headers["Lakehouse-Next"]
        reply = served.get("/v1/klines", **BTC, format="arrow")
        assert (reply.status, reply.json["code"]) == (422, "too_large")
        reply = served.get("/v1/klines", **BTC, indicators="sma_5")
        assert (reply.status, reply.json["code"]) == (422, "too_large")
        reply = served.get("/v1/gaps")
        assert (reply.status, reply.json["code"]) == (422, "too_large")


def test_cursors_are_of_their_question(served: Served) -> None:
    page = served.get("/v1/klines", **BTC, limit=3)
    cursor = page.headers["Lakehouse-Next"]
    other = served.get("/v1/klines", symbol="ETHUSDT", interval="1h", limit=3, cursor=cursor)
    assert (other.status, "another question" in other.json["detail"]) == (422, True)
    for place in range(0, len(cursor), 5):
        changed = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        reply = served.get("/v1/klines", **BTC, limit=3, cursor=changed)
        assert reply.status == 422, changed


def test_a_body_beyond_the_limit_is_refused(home: Path) -> None:
    with serving(home, Limits(body_bytes_max=1000)) as served:
        reply = served.post("/v1/klines", b"x" * 2000)
        assert (reply.status, reply.json["code"]) == (413, "body_too_large")


def test_questions_beyond_those_that_may_wait_are_turned_away(home: Path) -> None:
    limits = Limits(statements=1, waiting_max=0, cache_bytes=0)
    with serving(home, limits) as served:
        replies: list[Reply] = []

        def ask(start: str) -> None:
            """Each something else: equal questions wait for one answer."""
            replies.append(served.get("/v1/coverage", start=start))

        threads = [
            threading.Thread(target=ask, args=(f"2023-12-2{number}",)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = sorted(reply.status for reply in replies)
        assert counts[0] == 200
        assert counts[-1] == 503
        busy = next(reply for reply in replies if reply.status == 503)
        assert busy.headers["Retry-After"] == "1"
        assert served.get("/v1/klines", **BTC).status == 200


def test_a_question_ends_at_its_deadline(home: Path) -> None:
    with serving(home, Limits(statement_timeout_s=0.03, statements=1)) as served:
        reply = served.get("/v1/coverage")
        assert (reply.status, reply.json["code"]) == (504, "deadline")
        deadline = time.monotonic() + 10
        while b"questions_in_flight 0.0" not in served.get("/metrics").body:
            assert time.monotonic() < deadline


def test_a_client_that_hangs_up_leaves_nothing_running(home: Path) -> None:
    with serving(home, Limits(statements=1, cache_bytes=0)) as served:
        address = urlparse(served.url)
        assert address.hostname is not None
        for _ in range(5):
            with socket.create_connection((address.hostname, address.port or 0)) as raw:
                raw.sendall(b"GET /v1/coverage HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        deadline = time.monotonic() + 10
        while b"questions_in_flight 0.0" not in served.get("/metrics").body:
            assert time.monotonic() < deadline
        assert served.get("/v1/klines", **BTC, limit=1).status == 200


def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    """And what it got is shorter than its length says."""
    lake = BarLake(tmp_path / "home")
    # Some 10 MB of JSON: more than the system keeps for a client.
    lake.put(bars("BTCUSDT", "2024-01-01", 14, interval="1m"))
    with serving(lake.home, Limits(send_timeout_s=0.5)) as served:
        address = urlparse(served.url)
        assert address.hostname is not None
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect((address.hostname, address.port or 0))
            ask = b"GET /v1/klines?symbol=BTCUSDT&interval=1m HTTP/1.1"
            raw.sendall(ask + b"\r\nHost: 127.0.0.1\r\n\r\n")
            deadline = time.monotonic() + 20
            while b'route="/v1/klines"' not in served.get("/metrics").body:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            got = b""
            while piece := raw.recv(1 << 20):
                got += piece
        head, _, body = got.partition(b"\r\n\r\n")
        (length,) = [line for line in head.lower().splitlines() if b"content-length" in line]
        assert 0 < len(body) < int(length.split(b":")[1])


def test_numbers_that_json_has_no_word_for_are_null(served: Served) -> None:
    document = served.get("/v1/klines", **BTC, indicators="sma_20", end="2024-01-02").json
    values: list[Any] = [row["sma_20"] for row in document["rows"]]
    assert values[0] is None
    assert all(value is None or math.isfinite(value) for value in values)


def test_a_key_is_asked_of_everybody_but_probes(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    file = KeyFile(path, SystemClock())
    made, key = file.create("tests", 1)
    with serving(home, keys=KeyRing(path, SystemClock())) as served:
        assert served.get("/health").status == served.get("/ready").status == 200
        with_key = {"Authorization": f"Bearer {key}"}
        for path_ in ("/v1/klines", "/v1/datasets", "/metrics", "/openapi.json", "/nowhere"):
            for headers in ({}, {"Authorization": f"Bearer {key[:-1]}"}, {"X-API-Key": "lk_x"}):
                reply = served.get(path_, headers)
                assert (reply.status, reply.json["code"]) == (401, "key_needed"), path_
                assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert served.get("/v1/klines", with_key, **BTC).status == 200
        assert served.get("/v1/klines", {"X-API-Key": key}, **BTC).status == 200
        # What is remembered of one's answers is not given to who has no key.
        assert served.get("/v1/klines", **BTC).status == 401
        file.revoke(made.id)
        assert served.get("/v1/klines", with_key, **BTC).status == 401


@pytest.fixture
def command(home: Path) -> Iterator[tuple[subprocess.Popen[str], Served]]:
    environment_ = environment(HOME=home, LOG__LEVEL="info", LOG__FORMAT="json")
    with popen(
        "serve",
        "--no-ray",
        "--port",
        "0",
        "--json",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment_,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Served(json.loads(process.stdout.readline())["url"])
        process.kill()


def test_the_command_serves_logs_and_ends(command: tuple[subprocess.Popen[str], Served]) -> None:
    process, served = command
    assert served.url.startswith("http://127.0.0.1:")
    assert served.get("/v1/klines", {"X-Request-Id": "told-1"}, **BTC, limit=1).status == 200
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 143
    (line,) = [json.loads(line) for line in told.splitlines() if '"told-1"' in line]
    assert (line["status"], line["path"], line["event"]) == (200, "/v1/klines", "request")


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return completed(*arguments, env=environment(HOME=home), text=True)


def test_an_open_address_needs_keys(tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused = run(home, "serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 6
    assert "lakehouse keys create" in refused.stderr
    made = run(home, "keys", "create", "tests", "--days", "1", "--json")
    key = json.loads(made.stdout)["key"]
    assert key not in (home / "keys.json").read_text()
    listed = json.loads(run(home, "keys", "list", "--json").stdout)["keys"]
    assert [(one["name"], one["state"]) for one in listed] == [("tests", "active")]
    run(home, "keys", "revoke", listed[0]["id"])
    assert run(home, "serve", "--host", "0.0.0.0", "--port", "0").returncode == 6


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run(tmp_path / "home", "serve", "--port", port)
    assert refused.returncode == 8
    assert "--port" in refused.stderr


def test_the_api_has_a_page_that_loads_nothing(served: Served) -> None:
    reply = served.get("/docs")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = reply.body.decode()
    for path in served.get("/openapi.json").json["paths"]:
        assert f"</b>{path}</h3>" in page
    assert "<script" not in page
    assert not any(word in page for word in ("src=", "@import", "url(", "https://"))
    assert "script-src" not in reply.headers["Content-Security-Policy"]


def test_a_lost_file_is_told_and_not_its_path(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "home")
    lake.put(bars("BTCUSDT", "2024-01-01", 2))
    with serving(lake.home) as served:
        assert served.get("/v1/klines", **BTC).status == 200
        for path in (lake.home / "data").rglob("*.parquet"):
            path.unlink()
        for reply in (
            served.get("/v1/klines", **BTC, columns="close"),
            served.get("/v1/coverage"),
            served.get("/v1/sql", query="select count(close) from silver.klines"),
        ):
            assert (reply.status, reply.json["code"]) == (503, "unavailable"), reply.body
            assert str(lake.home).encode() not in reply.body


def test_questions_at_once_have_each_their_own_answer(home: Path) -> None:
    with serving(home, Limits(cache_bytes=0)) as served:
        days = [f"2024-01-{day:02}" for day in range(1, 25)]
        spans = list(itertools.pairwise(days))
        alone = {
            span: served.get("/v1/klines", **BTC, start=span[0], end=span[1]) for span in spans
        }
        got: list[tuple[tuple[str, str], Reply]] = []

        def ask(part: int) -> None:
            for start, end in spans[part::4]:
                reply = served.get("/v1/klines", **BTC, start=start, end=end)
                got.append(((start, end), reply))

        threads = [threading.Thread(target=ask, args=(n % 4,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 2 * len(spans)
        assert all(reply.body == alone[span].body for span, reply in got)
