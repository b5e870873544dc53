"""`lake.live` over the service: what the local lake tells, across everything that ends a connection."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.following import Mirror, values_of
from support.live_lake import LiveLake
from support.live_rows import live_rows, version
from support.served import Served, running, serving, source_at
from support.switched import switched
from websockets.sync.server import ServerConnection, serve

import lakehouse_ray as lh
from lakehouse_ray.access.keys import KeyFile, KeyRing
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import (
    BadDataError,
    DeniedError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import MINUTE_US, parse_time
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.query.live_events import LiveEvent
from lakehouse_ray.remote import live as remote_live
from lakehouse_ray.remote.lake import RemoteLake
from lakehouse_ray.serve.app import create_app
from lakehouse_ray.serve.streams import courses
from lakehouse_ray.serve.streams.hub import StreamLimits

pytestmark = pytest.mark.integration

KLINES = DATASETS["klines"]
START_US = parse_time("2024-05-31T23:40")
FAST = StreamLimits(poll_s=0.05)
WAIT_S = 20.0


@pytest.fixture
def lake(tmp_path: Path) -> LiveLake:
    made = LiveLake(tmp_path)
    put(made, made.merge, 0, 2)
    return made


@pytest.fixture
def served(lake: LiveLake) -> Iterator[Served]:
    with serving(lake.home, streams=FAST) as served:
        yield served


def put(
    lake: LiveLake, into: Any, first: int, last: int, value: float = 1, second: int = 1, **more: Any
) -> None:
    rows = [(START_US + n * MINUTE_US, value, version(second)) for n in range(first, last)]
    how = {"source": "stream", "market": "spot", "interval": "1m", **more}
    into(KLINES, live_rows(KLINES, rows, **how))


def minute(number: int) -> datetime:
    return datetime(2024, 5, 31, 23, 40, tzinfo=UTC) + timedelta(minutes=number)


def facts(events: list[LiveEvent]) -> list[Any]:
    return [(e.kind, e.seq, e.cause, e.row, e.was) for e in events]


def change(lake: LiveLake) -> None:
    """Every kind of event: rows, one that is corrected, one that is late, a gap; and what is no news."""
    put(lake, lake.append, 2, 5)
    put(lake, lake.append, 2, 5)
    lake.gap("klines", "BTCUSDT", START_US, START_US + 3 * MINUTE_US, interval="1m")
    put(lake, lake.append, 3, 4, 9, 7)
    fold(lake.writer())
    put(lake, lake.merge, -3, -2, source="rest")
    put(lake, lake.append, 5, 7, symbol="ETHUSDT")
    put(lake, lake.append, 5, 6)


def test_it_tells_what_the_local_lake_tells_blocking_and_awaited(
    lake: LiveLake, served: Served
) -> None:
    begin = lake.connect().live("klines", "BTCUSDT", "1m").resume
    change(lake)
    here = list(lake.connect().live("klines", "BTCUSDT", "1m", resume=begin, timeout_s=1))
    assert [(event.kind, event.cause) for event in here] == [
        ("correction", "late"), *[("row", None)] * 3, ("gap", None), ("row", None),
    ]  # fmt: skip
    assert [event.seq for event in here] == list(range(1, len(here) + 1))
    with RemoteLake(served.url) as remote:
        live = remote.live("klines", "BTCUSDT", "1m", resume=begin, timeout_s=WAIT_S)
        assert live.resume == begin
        with live:
            there = [next(live) for _ in here]
            assert live.resume == there[-1].resume
        assert list(live) == []
    assert facts(there) == facts(here)

    async def awaited() -> list[LiveEvent]:
        async with await lh.connect_async(served.url) as slow:
            live = slow.live("klines", ["BTCUSDT"], "1m", resume=here[1].resume, timeout_s=WAIT_S)
            async with live:
                return [await anext(live) for _ in here[2:]]

    assert facts(asyncio.run(awaited())) == facts(here[2:])


def test_who_follows_has_what_the_lake_has(lake: LiveLake, served: Served) -> None:
    mirror = Mirror("symbol", "open_time")
    with lh.connect(served.url) as remote:
        live = remote.live("klines", None, "1m", resume="silver.klines_fine@-,silver.klines_hot@-")
        change(lake)
        put(lake, lake.append, 9, 10)
        for event in live:
            if event.kind != "gap":
                mirror.apply([event])
            else:
                mirror.seq += 1
            if event.row is not None and event.row.get("open_time") == minute(9):
                break
    stored = lake.connect().sql("FROM silver.klines").pl()
    assert mirror.values() == values_of(stored.to_dicts(), "symbol", "open_time")


def test_frames_have_the_rows_and_types_of_the_lake(lake: LiveLake, served: Served) -> None:
    with lh.connect(served.url) as remote:
        live = remote.live(
            "klines", None, "1m", resume=lake.connect().klines("BTCUSDT", "1m").meta.as_of
        )
        put(lake, lake.append, 2, 6)
        with live:
            batch = next(live.batches())
        stored = lake.connect().klines("BTCUSDT", "1m").collect()
        assert batch.pl().drop("seq", "event", "cause").equals(stored[2:])
        assert batch.pl().schema == {**dict(batch.pl().schema), **dict(stored.schema)}


def test_another_server_goes_on_where_one_went_away(lake: LiveLake) -> None:
    """Once with a word (1001), once without: nothing is lost or told twice."""
    with ExitStack() as stack, switched() as switch:
        servers = []
        for _ in range(2):
            one = stack.enter_context(ExitStack())
            app = create_app(source_at(lake.home), streams=FAST)
            servers.append((one, one.enter_context(running(app))))
        switch.target = servers[0][1].url
        mirror = Mirror("symbol", "open_time")
        remote = stack.enter_context(RemoteLake(switch.url, timeout_s=WAIT_S))
        live = stack.enter_context(remote.live("klines", "BTCUSDT", "1m", timeout_s=60))
        put(lake, lake.append, 2, 4)
        mirror.apply([next(live), next(live)])
        switch.target = servers[1][1].url
        servers[0][0].close()
        put(lake, lake.append, 4, 6)
        mirror.apply([next(live), next(live)])
        switch.cut()
        put(lake, lake.append, 6, 7)
        mirror.apply([next(live)])
        assert switch.opened == 3
    stored = lake.connect().klines("BTCUSDT", "1m").collect()
    assert mirror.values() == values_of(stored[2:].to_dicts(), "open_time")


def test_who_reads_too_slowly_is_told_and_misses_nothing(
    lake: LiveLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service gives the connection up; the next one goes on."""
    monkeypatch.setattr(remote_live, "SLOW_S", 1.0)
    limits = StreamLimits(poll_s=0.05, send_timeout_s=0.5)
    with (
        serving(lake.home, streams=limits) as served,
        switched(served.url) as narrow,
        lh.connect(narrow.url) as remote,
        remote.live("klines", "BTCUSDT", "1m", timeout_s=60) as live,
    ):
        put(lake, lake.append, 2, 30_000)
        found = [next(live)]
        time.sleep(2.5)
        while (found[-1].row or {}).get("open_time") != minute(29_999):
            found.append(next(live))
        assert narrow.opened > 1
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    assert [event.kind for event in found].count("row") == 29_998
    slow = [event.row for event in found if event.kind == "slow"]
    assert slow
    assert slow[0] is not None
    assert slow[0]["waited_s"] > 1


def test_what_is_too_much_to_be_held_for_all_is_told_all_the_same(
    lake: LiveLake, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courses, "SHARED_EVENTS_MAX", 10)
    with lh.connect(served.url) as remote, remote.live("klines", "BTCUSDT", "1m") as live:
        put(lake, lake.append, 2, 500)
        put(lake, lake.append, 2, 500, symbol="ETHUSDT")
        found = [next(live) for _ in range(498)]
        with remote.live("klines", "BTCUSDT", "1m", resume=found[99].resume) as later:
            assert facts([next(later) for _ in range(398)]) == facts(found[100:])
    assert [event.seq for event in found] == list(range(1, 499))


def test_errors_are_those_of_the_local_lake(lake: LiveLake, served: Served) -> None:
    with RemoteLake(served.url) as remote:
        with pytest.raises(InvalidError):
            remote.live("klimes", interval="1m")
        gone = "silver.klines_fine@-,silver.klines_coarse@-,silver.klines_hot@123"
        with pytest.raises(NotFoundError, match="no snapshot 123"):
            remote.live("klines", "BTCUSDT", "1m", resume=gone)
        with remote.live("klines", "BTCUSDT", "1m") as live:
            token = live.resume
        with pytest.raises(InvalidError, match="other rows"):
            remote.live("klines", "ETHUSDT", "1m", resume=token)
        assert list(remote.live("klines", "BTCUSDT", "1m", timeout_s=0.1)) == []
    nobody = RemoteLake("http://127.0.0.1:9", timeout_s=0.3)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        nobody.live("klines", "BTCUSDT", "1m")


def test_a_key_is_asked_for_and_its_end_ends_it(lake: LiveLake) -> None:
    clock = SystemClock()
    file = KeyFile(lake.home / "keys.json", clock)
    made, key = file.create("someone", None)
    with serving(lake.home, keys=KeyRing(lake.home / "keys.json", clock), streams=FAST) as served:
        with RemoteLake(served.url, api_key="lk_no") as nobody, pytest.raises(DeniedError):
            nobody.live("klines", "BTCUSDT", "1m")
        with (
            RemoteLake(served.url, api_key=key) as remote,
            remote.live("klines", "BTCUSDT", "1m", timeout_s=WAIT_S) as live,
        ):
            file.revoke(made.id)
            with pytest.raises(DeniedError, match="holds no more"):
                next(live)


def test_events_that_are_missing_or_malformed_are_an_error(lake: LiveLake, served: Served) -> None:
    """A server, or what is before it, that leaves something out."""
    with lh.connect(served.url) as remote, remote.live("klines", "BTCUSDT", "1m") as live:
        token = live.resume
    hello = json.dumps({"resume": token, "events": []})
    for wrong in (
        {"resume": token, "events": [{"seq": 2, "event": "gap", "row": {}}]},
        {"resume": token, "events": [{"seq": 1, "event": "row", "row": {"symbol": 1}}]},
        {"resume": "AAAA", "events": []},
        {"events": []},
        [],
    ):

        def tell(socket: ServerConnection, wrong: Any = wrong) -> None:
            socket.send(hello)
            socket.send(json.dumps(wrong))
            socket.recv()

        with serve(tell, "127.0.0.1", 0) as fake:
            threading.Thread(target=fake.serve_forever, daemon=True).start()
            port = fake.socket.getsockname()[1]
            with RemoteLake(f"http://127.0.0.1:{port}", timeout_s=5) as remote:
                live = remote.live("klines", "BTCUSDT", "1m", timeout_s=WAIT_S)
                with pytest.raises(BadDataError):
                    next(live)


def test_it_ends_when_it_is_closed_from_elsewhere(lake: LiveLake, served: Served) -> None:
    with lh.connect(served.url) as remote, remote.live("klines", "BTCUSDT", "1m") as live:
        timer = threading.Timer(0.3, live.close)
        timer.start()
        assert list(live) == []
        timer.join()
    assert measured(served, "lakehouse_stream_connections") == 0


def measured(served: Served, name: str) -> float:
    """Waits a little: the server hears of an end later."""
    for _ in range(100):
        text = served.get("/metrics").body.decode()
        value = next(
            float(one.split()[1]) for one in text.splitlines() if one.startswith(f"{name} ")
        )
        if not value:
            break
        time.sleep(0.05)
    return value
