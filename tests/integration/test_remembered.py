"""Remembered answers with a real Redis and the lake's own store: never stale, never wrong, and no
question fails for what becomes of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from structlog.testing import capture_logs
from support.bars import BarLake, bars
from support.buckets import moto
from support.commands import environment
from support.in_process import run_here
from support.redis_server import RedisServer
from support.served import Reply, Served, running, serving, source_at

import lakehouse_ray as lh
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.serve.cache.in_redis import RedisLevel
from lakehouse_ray.serve.cache.in_store import StoreLevel
from lakehouse_ray.serve.cache.level import Level
from lakehouse_ray.serve.formats import Format
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.server import app_of
from lakehouse_ray.settings import load_settings
from lakehouse_ray.storage.objects import LocalStore, ObjectStore, S3Store

pytestmark = pytest.mark.integration

BTC: dict[str, object] = {"symbol": "BTCUSDT", "interval": "1h"}
CANARY = "c4n4ry"
# Enough for a busy machine; what is tested is not how fast Redis is.
PATIENT_S = 2.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("remembered") / "home"
    lake = BarLake(home)
    lake.put(bars("BTCUSDT", "2024-01-01", 40), bars("ETHUSDT", "2024-01-01", 40))
    lake.put(*(bars(f"{name}USDT", "2024-01-01", 8, interval="1m") for name in "ABC"))
    return home


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    try:
        yield server
    finally:
        server.kill()


def shared(server: RedisServer, timeout_s: float = PATIENT_S) -> RedisLevel:
    return RedisLevel(server.url, SystemClock(), timeout_s=timeout_s, ttl_s=600)


def kept(home: Path, store: ObjectStore | None = None, bytes_max: int = 256 << 20) -> StoreLevel:
    store = store or source_at(home).store
    return StoreLevel(store, home / "tmp", SystemClock(), bytes_max=bytes_max, ttl_s=600)


@contextmanager
def servers(home: Path, *levels: Sequence[Level], memory: int = 0) -> Iterator[list[Served]]:
    """Several, without memory of their own: what one of them knows it has from a level."""
    with ExitStack() as stack:
        limits = Limits(cache_bytes=memory, sql_statements=0)
        yield [stack.enter_context(serving(home, limits, levels=own)) for own in levels]


def count(served: Served, name: str, level: str) -> float:
    wanted = f'lakehouse_answers_remembered_{name}{{level="{level}"}} '
    for line in served.get("/metrics").body.decode().splitlines():
        if line.startswith(wanted):
            return float(line.removeprefix(wanted))
    raise AssertionError(wanted)


def until(served: Served, name: str, level: str, is_so: Callable[[float], bool]) -> None:
    """Answers are kept elsewhere while their clients read them."""
    deadline = time.monotonic() + 60
    while not is_so(count(served, name, level)):
        assert time.monotonic() < deadline, served.get("/metrics").body.decode()
        time.sleep(0.01)


def frame_of(reply: Reply) -> pl.DataFrame:
    assert reply.status == 200, reply.body
    found = pl.from_arrow(pa.ipc.open_stream(reply.body).read_all())
    assert isinstance(found, pl.DataFrame)
    return found


def test_the_first_question_of_a_second_server_is_answered_from_redis(
    home: Path, redis: RedisServer
) -> None:
    with servers(home, [shared(redis)], [shared(redis)]) as (one, two):
        query = {**BTC, "limit": 30, "format": "csv"}
        first = one.get("/v1/klines", **query)
        until(one, "written_bytes_total", "redis", lambda n: n > 0)
        # The same question in another order, and by the other name of its format.
        del query["format"]
        turned = dict(reversed(query.items()))
        second = two.get("/v1/klines", {"Accept": "text/csv"}, **turned)
        assert (count(two, "hits_total", "redis"), count(two, "misses_total", "redis")) == (1, 0)
        assert second.body == first.body
        for name in ("ETag", "Lakehouse-Rows", "Lakehouse-Next", "Content-Digest",
                     "Content-Type", "Content-Length", "Lakehouse-Snapshots"):  # fmt: skip
            assert second.headers[name] == first.headers[name]
        # The next page, as each of them asked for its first one.
        assert ("format=csv" in first.headers["Link"], "format" in second.headers["Link"]) == (
            True,
            False,
        )
        # Questions of other kinds, and other formats.
        for path, more in (("/v1/coverage", {}), ("/api/v3/klines", BTC), ("/v1/klines", BTC)):
            written = count(one, "written_bytes_total", "redis")
            wanted = one.get(path, **more).body
            until(one, "written_bytes_total", "redis", lambda n, w=written: n > w)
            assert two.get(path, **more).body == wanted
        assert count(two, "misses_total", "redis") == 0
        # They go by themselves.
        with redis.client() as client:
            keys = client.keys("*")
            assert len(keys) == 4
            assert all(0 < client.ttl(key) <= 600 for key in keys)
            # A server may close connections that nobody used for long.
            client.client_kill_filter(_type="normal")
        assert two.get("/v1/klines", {"Accept": "text/csv"}, **turned).body == first.body
        assert count(two, "errors_total", "redis") == 0


def changed_by(chooser: random.Random) -> Callable[[pl.DataFrame], pl.DataFrame]:
    factor = chooser.uniform(0.5, 2)
    return lambda frame: frame.with_columns(close=pl.col("close") * factor)


def test_after_each_commit_answers_are_those_of_the_sdk(tmp_path: Path, redis: RedisServer) -> None:
    seed = 1
    chooser = random.Random(seed)
    lake = BarLake(tmp_path / "home")
    days = itertools.count(1)
    span = {"start": "2024-01-01", "end": "2025-01-01"}
    levels = [[shared(redis), kept(lake.home)] for _ in range(2)]
    seen: dict[str, pl.DataFrame] = {}
    with servers(lake.home, *levels, memory=64 << 20) as pair:
        for _ in range(5):
            if not seen or chooser.random() < 0.6:
                day = f"2024-01-{next(days) * 2:02d}"
                lake.put(*(bars(s, day, 2, seed=seed) for s in ("BTCUSDT", "ETHUSDT")))
            else:
                lake.rewrite("silver.klines_coarse", changed_by(chooser))
            sdk = lh.connect(lake.home)
            now = sdk.klines("BTCUSDT", "1h", *span.values()).collect()
            for served in (*pair, *reversed(pair)):
                reply = served.get("/v1/klines", **BTC, **span, format="arrow")
                assert_frame_equal(frame_of(reply), now)
                as_of = reply.headers["Lakehouse-Snapshots"]
                seen[as_of] = frame_of(reply)
            then = sdk.klines("BTCUSDT", "1h", *span.values(), as_of=as_of).collect()
            assert_frame_equal(then, now)
        assert len(seen) == 5
        # What was once is as it was, too.
        for as_of, frame in seen.items():
            for served in pair:
                reply = served.get("/v1/klines", **BTC, **span, format="arrow", as_of=as_of)
                assert_frame_equal(frame_of(reply), frame)
        hits = sum(count(served, "hits_total", level) for served in pair
                   for level in ("memory", "redis"))  # fmt: skip
        assert hits > 10


def test_redis_is_killed_under_load_and_no_question_fails(home: Path, redis: RedisServer) -> None:
    lake = lh.connect(home)
    all_rows = lake.klines("BTCUSDT", "1h").collect()
    with servers(home, [shared(redis, 1)], [shared(redis, 1)]) as pair, capture_logs() as told:
        wrong: list[object] = []
        asked = itertools.count()
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                number = next(asked)
                limit = 1 + number % 60
                reply = pair[number % 2].get("/v1/klines", **BTC, limit=limit, format="arrow")
                if reply.status != 200 or not frame_of(reply).equals(all_rows.head(limit)):
                    wrong.append((reply.status, reply.body[:200]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for served in pair:
                until(served, "hits_total", "redis", lambda n: n > 5)
            redis.kill()
            for served in pair:
                until(served, "skipped_total", "redis", lambda n: n > 5)
                until(served, "up", "redis", lambda up: up == 0)
            hits = [count(served, "hits_total", "redis") for served in pair]
            redis.start()  # empty
            for served, before in zip(pair, hits, strict=True):
                until(served, "hits_total", "redis", lambda n, before=before: n > before + 5)
                until(served, "up", "redis", lambda up: up == 1)
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert not wrong
    states = [entry["event"] for entry in told if entry.get("what") == "redis"]
    assert 2 <= len(states) <= 12  # of each server, for each change of state, not each question


def test_a_redis_that_stands_still_holds_up_nobody(home: Path, redis: RedisServer) -> None:
    with servers(home, [shared(redis, 0.05)]) as (served,):
        assert served.get("/v1/klines", **BTC, limit=1).status == 200
        redis.pause()
        try:
            for limit in range(2, 22):
                assert served.get("/v1/klines", **BTC, limit=limit).json["row_count"] == limit
            # One has waited for it, and those that tried again; the others have not asked.
            assert 1 <= count(served, "errors_total", "redis") < 10
            assert count(served, "skipped_total", "redis") > 10
        finally:
            redis.resume()
        until(served, "hits_total", "redis", lambda n: served.get(
            "/v1/klines", **BTC, limit=30).status == 200 and n > 0)  # fmt: skip


def test_a_full_redis_is_still_read(home: Path, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path, "--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    try:
        with servers(home, [shared(redis)], [shared(redis)]) as (one, two), capture_logs() as told:
            first = one.get("/v1/klines", **BTC, limit=1)
            until(one, "written_bytes_total", "redis", lambda n: n > 0)
            with redis.client() as client:
                client.config_set("maxmemory", 1)
            for limit in range(2, 12):
                assert one.get("/v1/klines", **BTC, limit=limit).json["row_count"] == limit
            until(one, "errors_total", "redis", lambda n: n >= 1)
            assert count(one, "up", "redis") == 1
            assert two.get("/v1/klines", **BTC, limit=1).body == first.body
            assert count(two, "hits_total", "redis") == 1
            assert count(one, "errors_total", "redis") < 5
        assert [e["reason"] for e in told if e["log_level"] == "warning"] == ["OutOfMemoryError"]
    finally:
        redis.kill()


def test_garbage_in_redis_is_never_an_answer(home: Path, redis: RedisServer) -> None:
    with servers(home, [shared(redis)], [shared(redis)]) as (one, two), redis.client() as client:
        right, other = (one.get("/v1/klines", **BTC, limit=n).body for n in (7, 8))
        until(one, "written_bytes_total", "redis", lambda n: n > len(right) + len(other))
        keys = client.keys("*")
        values = {key: client.get(key) or b"" for key in keys}
        (key,) = [key for key, value in values.items() if value.endswith(right)]
        value = values.pop(key)
        plants: list[Callable[[], object]] = [
            lambda: client.set(key, os.urandom(500)),
            lambda: client.set(key, b"lakeans0" + value[8:]),  # of another release's format
            lambda: client.set(key, value[:-1]),
            lambda: client.set(key, value[:40]),
            lambda: client.set(key, value.replace(b'"close"', b'"CLOSE"')),
            lambda: client.set(key, next(iter(values.values()))),  # another question's
            lambda: client.set(key, pickle.dumps({"x": right})),
            lambda: client.set(key, b"x" * (4 << 20)),
            lambda: (client.delete(key), client.rpush(key, value)),
            lambda: (client.delete(key), client.hset(key, "body", value)),
        ]
        for number, plant in enumerate(plants):
            plant()
            assert two.get("/v1/klines", **BTC, limit=7).body == right
            assert count(two, "damaged_total", "redis") == number + 1
            # And what is right lies there again.
            until(two, "written_bytes_total", "redis", lambda n, k=number: n > k * len(right))
        assert client.get(key) == value
        assert one.get("/v1/klines", **BTC, limit=7).body == right
        assert count(two, "errors_total", "redis") == 0


def test_large_answers_are_kept_in_the_store(home: Path, redis: RedisServer) -> None:
    lake = lh.connect(home)
    query: dict[str, object] = {"symbol": "AUSDT", "interval": "1m"}
    levels = [[shared(redis), kept(home)] for _ in range(2)]
    with servers(home, *levels) as (one, two):
        first = one.get("/v1/klines", **query)
        assert len(first.body) > 4 << 20  # on disk, not in memory
        until(one, "written_bytes_total", "store", lambda n: n == len(first.body))
        second = two.get("/v1/klines", **query)
        assert second.body == first.body
        assert second.json["rows"]
        assert dict(second.headers.items()).keys() == dict(first.headers.items()).keys()
        assert count(two, "hits_total", "store") == 1
        assert count(one, "written_bytes_total", "redis") == 0
        # Several at once, from one file.
        replies: list[Reply] = []
        threads = [
            threading.Thread(target=lambda: replies.append(two.get("/v1/klines", **query)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [reply.body == first.body for reply in replies] == [True] * 4
        # One that was changed is not given.
        (path,) = (home / "data/cache/answers").iterdir()
        path.write_bytes(path.read_bytes().replace(b'"close"', b'"CLOSE"'))
        assert two.get("/v1/klines", **query).body == first.body
        assert count(two, "damaged_total", "store") == 1
    # It is no part of the lake.
    assert lake.klines("AUSDT", "1m").collect().height > 10_000
    checked = run_here("verify", "--json", env=environment(HOME=home))
    assert "cache/answers" not in checked.stdout
    assert "source_unknown" in checked.stdout  # of rows that a test wrote by itself


def test_equal_questions_at_once_are_worked_on_once(home: Path) -> None:
    with servers(home, [], memory=64 << 20) as (served,):
        bodies: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: bodies.append(served.get("/v1/coverage").body))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(bodies), len(set(bodies))) == (8, 1)
        # Put into memory once, whoever came when.
        assert count(served, "written_bytes_total", "memory") == len(bodies[0])


_WRITING = """
import asyncio, os, sys
from pathlib import Path
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.serve.cache.in_store import StoreLevel
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.formats import Format, hold_rows
from lakehouse_ray.storage.objects import LocalStore
folder = Path(sys.argv[1])
level = StoreLevel(
    LocalStore(folder / "data"), folder / "tmp", SystemClock(), bytes_max=32 << 20, ttl_s=600
)
async def main():
    number = 0
    while True:
        data = bytes([number % 256]) * (2 << 20)
        await level.put(f"{number % 40:032x}", Written(hold_rows(data, Format.ARROW, number)))
        number += 1
        if number == 20: print("writes", flush=True)
asyncio.run(main())
"""


def test_processes_that_write_at_once_and_are_killed_leave_whole_answers(tmp_path: Path) -> None:
    folder = tmp_path / "data/cache/answers"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writes\n"
    for writer in writers:
        writer.kill()
        writer.communicate()
    sizes = [path.stat().st_size for path in folder.iterdir() if path.suffix != ".part"]
    # Each of them may go beyond by the answer that it writes.
    assert 0 < sum(sizes) <= (32 << 20) + 2 * (3 << 20)
    here = tmp_path / "home"
    level = kept(here, LocalStore(tmp_path / "data"), 32 << 20)

    async def read() -> list[object]:
        names = [path.name for path in folder.iterdir() if path.suffix != ".part"]
        return [await level.get(name, Format.ARROW) for name in names]

    assert None not in asyncio.run(read())
    assert level.counts.damaged == 0


def test_answers_are_kept_in_a_bucket_too(home: Path) -> None:
    query: dict[str, object] = {"symbol": "BUSDT", "interval": "1m"}
    with moto() as bucket:
        store = S3Store(f"s3://{bucket.name}/lake", bucket.access)
        levels = [[kept(home, store)] for _ in range(2)]
        with servers(home, *levels) as (one, two):
            first = one.get("/v1/klines", **query).body
            until(one, "written_bytes_total", "store", lambda n: n == len(first))
            assert two.get("/v1/klines", **query).body == first
            assert count(two, "hits_total", "store") == 1
            assert [path.count("/") for path in bucket.objects("lake")] == [2]


def test_a_password_is_in_no_log(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    redis = RedisServer(tmp_path, "--requirepass", "right")
    try:
        url = f"redis://:{CANARY}@127.0.0.1:{redis.port}/0"
        told = {"redis_url": url, "redis_timeout_s": PATIENT_S, "sql_statements": 0}
        settings = load_settings({"home": home, "serve": told}).resolved()
        with capture_logs() as logs, running(app_of(settings)) as served:
            for limit in (1, 2, 3):
                assert served.get("/v1/klines", **BTC, limit=limit).status == 200
            assert count(served, "errors_total", "redis") >= 1
            said = served.get("/metrics").body.decode() + repr(logs) + caplog.text
        assert "AuthenticationError" in said
        assert CANARY not in said
    finally:
        redis.kill()
