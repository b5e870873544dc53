"""What goes wrong between a client and the service is an error that says so, never a wrong answer."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars
from support.between import Between, Passed, Spoil, between
from support.served import Served, serving

import lakehouse_ray as lh
from lakehouse_ray.access.keys import KeyFile, KeyRing
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.query.versions import ExpiredError
from lakehouse_ray.serve.limits import Limits

pytestmark = pytest.mark.integration

HOURS = ("BTCUSDT", "1h")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("faults") / "home"
    BarLake(home).put(bars("BTCUSDT", "2024-01-01", 10))
    return home


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home) as served:
        yield served


@pytest.fixture(scope="module")
def rows(home: Path) -> int:
    return lh.connect(home).klines(*HOURS).collect().height


def blocking(seen: Between, **options: Any) -> int:
    with lh.RemoteLake(seen.url, page_rows=50, **options) as lake:
        return int(lake.klines(*HOURS).collect().height)


def awaited(seen: Between, **options: Any) -> int:
    async def asked() -> int:
        async with lh.AsyncRemoteLake(seen.url, page_rows=50, **options) as lake:
            return int((await lake.klines(*HOURS)).collect().height)

    return asyncio.run(asked())


Read = Callable[..., int]


@pytest.fixture(params=[blocking, awaited])
def read(request: pytest.FixtureRequest) -> Read:
    found: Read = request.param
    return found


def nth(number: int, change: Callable[[Passed], Passed | None]) -> Spoil:
    return lambda n, passed: change(passed) if n == number else passed


def headed(name: str, value: str | None) -> Callable[[Passed], Passed]:
    def change(passed: Passed) -> Passed:
        headers = {n: v for n, v in passed.headers.items() if n != name}
        return replace(passed, headers=headers if value is None else {**headers, name: value})

    return change


def flipped(passed: Passed) -> Passed:
    body = bytearray(passed.body)
    body[len(body) // 2] ^= 1
    return replace(passed, body=bytes(body))


def refused(status: int, retry_after: str | None = None) -> Callable[[Passed], Passed]:
    def change(passed: Passed) -> Passed:
        headers = {} if retry_after is None else {"retry-after": retry_after}
        return Passed(status, {"content-type": "text/html", **headers}, b"<h1>no</h1>")

    return change


OTHER = "silver.klines_coarse@1,silver.klines_fine@-"
SPOILT: dict[str, tuple[Callable[[Passed], Passed | None], type[Exception], str]] = {
    "the body is cut short": (
        lambda p: replace(p, sent=len(p.body) // 2), lh.UnavailableError, "broke off"
    ),
    "the body is cut short, and its length says so": (
        lambda p: headed("content-length", str(len(p.body) // 2))(
            replace(p, body=p.body[: len(p.body) // 2])
        ),
        lh.BadDataError, "DIGEST_MISMATCH",
    ),
    "a bit is changed": (flipped, lh.BadDataError, "DIGEST_MISMATCH"),
    "the hash is another": (
        headed("content-digest", "sha-256=:AAAA:"), lh.BadDataError, "DIGEST_MISMATCH"
    ),
    "there is no hash": (headed("content-digest", None), lh.BadDataError, "NO_DIGEST"),
    "there is no number of rows": (headed("lakehouse-rows", None), lh.BadDataError, "NO_ROW_COUNT"),
    "the number of rows is another": (headed("lakehouse-rows", "49"), lh.BadDataError, "ROW_COUNT"),
    "the version is another": (
        headed("lakehouse-snapshots", OTHER), lh.BadDataError, "SNAPSHOT_CHANGED"
    ),
    "the next page is on another server": (
        headed("link", '<http://127.0.0.2:1/v1/klines?cursor=x>; rel="next"'),
        lh.BadDataError, "BAD_LINK",
    ),
    "the next page is none": (headed("link", "</v1/klines>; rel=x"), lh.BadDataError, "BAD_LINK"),
    "it is no Arrow": (headed("content-type", "text/html"), lh.BadDataError, "NOT_ARROW"),
    "a proxy answers": (refused(502), lh.UnavailableError, "502"),
    "busy, and not when to come again": (refused(503), lh.UnavailableError, "503"),
    "an error of the server": (refused(500), lh.LakehouseError, "500"),
    "something else is there": (refused(404), lh.NotFoundError, "404"),
    "forbidden": (refused(403), lh.DeniedError, "403"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_page_that_is_spoilt_is_an_error(read: Read, served: Served, name: str) -> None:
    change, kind, told = SPOILT[name]
    with between(served.url, nth(3, change)) as seen, pytest.raises(kind, match=told):
        read(seen)
    assert len(seen.asked) == 3  # and it was not asked again


def test_a_server_that_dies_between_two_pages_is_told(read: Read, served: Served) -> None:
    with between(served.url, lambda n, passed: passed if n < 3 else None) as seen:
        with pytest.raises(lh.UnavailableError, match="cannot be reached"):
            read(seen)
        # What only reads is sent once more on a new connection.
        assert len(seen.asked) <= 4


def test_a_page_that_leads_to_itself_ends(read: Read, served: Served) -> None:
    first: list[str] = []

    def spoil(n: int, passed: Passed) -> Passed:
        if "link" in passed.headers:
            first.append(passed.headers["link"])
            passed.headers["link"] = first[min(len(first) - 1, 1)]
        return passed

    with between(served.url, spoil) as seen, pytest.raises(lh.BadDataError, match="WITHOUT_END"):
        read(seen)


def test_busy_is_asked_again_when_the_server_says_so(read: Read, served: Served, rows: int) -> None:
    def spoil(n: int, passed: Passed) -> Passed:
        return refused(503, "0")(passed) if n % 2 else passed

    with between(served.url, spoil) as seen:
        assert read(seen) == rows
    assert len(seen.asked) == 2 * len([n for n in range(1, len(seen.asked) + 1) if n % 2])


def test_busy_is_an_error_where_it_outlasts_the_time_there_is(read: Read, served: Served) -> None:
    began = time.monotonic()
    with between(served.url, lambda _, p: refused(503, "0")(p)) as seen:
        with pytest.raises(lh.UnavailableError, match="503"):
            read(seen, timeout_s=0.5)
        assert len(seen.asked) > 2
    with between(served.url, lambda _, p: refused(503, "60")(p)) as seen:
        with pytest.raises(lh.UnavailableError) as caught:
            read(seen, timeout_s=5)
        assert caught.value.retry_after_s == 60
        assert len(seen.asked) == 1
    assert time.monotonic() - began < 5


def test_a_server_that_does_not_answer_is_given_up(read: Read, served: Served) -> None:
    let_go = threading.Event()

    def spoil(_: int, passed: Passed) -> Passed:
        let_go.wait(20)
        return passed

    began = time.monotonic()
    with between(served.url, spoil) as seen:
        with pytest.raises(lh.UnavailableError, match=r"within 0\.5 s"):
            read(seen, timeout_s=0.5)
        assert time.monotonic() - began < 5
        let_go.set()


def test_where_nobody_listens_is_told(read: Read) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(lh.UnavailableError, match="cannot be reached"):
        read(Between(f"http://127.0.0.1:{port}"))


def test_a_redirect_is_not_followed(read: Read, served: Served) -> None:
    with between(served.url, lambda _, p: p) as other:

        def away(passed: Passed) -> Passed:
            return Passed(307, {"location": f"{other.url}/v1/klines"}, b"")

        with between(served.url, nth(1, away)) as seen, pytest.raises(lh.InvalidError):
            read(seen, api_key="lk_secret")
        assert other.asked == []


def test_the_servers_own_deadline_is_told(home: Path, read: Read) -> None:
    with (
        serving(home, Limits(statement_timeout_s=0.000_001)) as slow,
        pytest.raises(lh.UnavailableError, match="narrow"),
    ):
        read(slow)


def test_an_answer_that_is_too_large_is_told(home: Path) -> None:
    with serving(home, Limits(binary_rows_max=20)) as small, lh.RemoteLake(small.url) as lake:
        # In pages, however small the server makes them.
        assert lake.klines(*HOURS).collect().height > 200
        with pytest.raises(lh.InvalidError, match="20 rows"):
            lake.indicators(*HOURS, "sma_20").collect()


def test_a_snapshot_that_expired_is_told(tmp_path: Path, read: Read) -> None:
    store = BarLake(tmp_path / "home")
    store.put(bars("BTCUSDT", "2024-01-01", 10))

    def expire(n: int, passed: Passed) -> Passed:
        if n == 2:
            store.put(bars("BTCUSDT", "2024-02-01", 1))
            table = store.writer().catalog.find("silver.klines_coarse")
            assert table is not None
            ids = [one.snapshot_id for one in table.snapshots()][:-1]
            table.maintenance.expire_snapshots().by_ids(ids).commit()
        return passed

    with serving(store.home) as served, between(served.url, expire) as seen:
        with pytest.raises(ExpiredError) as caught:
            read(seen)
        assert caught.value.hint
    with pytest.raises(lh.NotFoundError):
        lh.connect(store.home).klines(*HOURS, as_of="silver.klines_coarse@1,silver.klines_fine@-")


def test_a_key_opens_and_is_shown_nowhere(
    home: Path,
    tmp_path: Path,
    rows: int,
    read: Read,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    _, key = KeyFile(tmp_path / "keys.json", SystemClock()).create("tests", None)
    with serving(home, keys=KeyRing(tmp_path / "keys.json", SystemClock())) as locked:
        assert read(locked, api_key=key) == rows
        for wrong in (None, "lk_wrong_key"):
            with pytest.raises(lh.DeniedError) as caught:
                read(locked, api_key=wrong)
            assert "lk_wrong_key" not in repr(caught.value)
        lake = lh.RemoteLake(locked.url, api_key=key)
        told = [repr(lake), repr(vars(lake)), *capfd.readouterr(), caplog.text]
        with pytest.raises(lh.NotFoundError) as missing:
            lake.klines("NOPE", "1h")
        chain: BaseException | None = missing.value
        while chain is not None:
            told.append(repr(chain))
            chain = chain.__cause__ or chain.__context__
        assert not any(key in text for text in told)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://", None),
        ("http://name:secret@127.0.0.1:1", None),
        ("http://127.0.0.1:99999", None),
        ("http://127.0.0.1:1/?key=secret", None),
        ("http://127.0.0.1:1", "secret\r\nX: y"),
        ("http://127.0.0.1:1", ""),
    ],
)
def test_what_is_no_address_or_no_key_is_told_without_its_secrets(
    url: str, key: str | None
) -> None:
    with pytest.raises(lh.InvalidError) as caught:
        lh.connect(url, api_key=key)
    assert "secret" not in f"{caught.value!r}"


def test_a_local_lake_takes_no_key(home: Path) -> None:
    with pytest.raises(lh.InvalidError, match="key"):
        lh.connect(str(home), api_key="lk_x")


def test_a_lake_is_asked_from_many_threads_a_running_loop_and_a_forked_process(
    served: Served, rows: int
) -> None:
    with lh.connect(served.url) as lake:
        found: list[int] = []

        def ask() -> None:
            found.append(lake.klines(*HOURS).collect().height)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        async def inside() -> None:
            ask()

        asyncio.run(inside())
        assert found == [rows] * 7
        child = os.fork()
        if child == 0:
            # Polars is not safe after a fork; the client is.
            try:
                with lake.select("klines", *HOURS[:1], interval="1h") as result:
                    os._exit(0 if result.arrow().num_rows == rows else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
