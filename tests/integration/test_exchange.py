"""The replica exchange over real sockets, asked with Python's own client and read by Python's own."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.testing.exchange import (
    Faults,
    FolderArchive,
    ReplicaExchange,
    Rule,
    SyntheticArchive,
    server,
)

pytestmark = pytest.mark.integration

S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"
KEY = "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2025-01-02.zip"
UNICODE = "data/spot/daily/klines/币安人生USDT/1h/币安人生USDT-1h-2025-01-02.zip"
REAL = Path(__file__).parents[2].parent / "shared" / "data"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(
    url: str, key: str, method: str = "GET", data: bytes | None = None, **headers: str
) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{url}/{quote(key)}", data, names, method=method)
    return _open(request)


def _open(request: urllib.request.Request) -> Reply:
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return Reply(reply.status, reply.headers, reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())


def listing(url: str, path: str = "", **query: str) -> ElementTree.Element:
    parameters = urlencode({name.replace("_", "-"): value for name, value in query.items()})
    reply = _open(urllib.request.Request(f"{url}/{path}?{parameters}"))
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/xml"
    return ElementTree.fromstring(reply.body)


def keys_of(page: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in page.iter(f"{S3}Key")]


@pytest.fixture(scope="module")
def market() -> SyntheticArchive:
    return SyntheticArchive(
        symbols=["BTCUSDT", "币安人生USDT"],
        markets=["spot"],
        start=date(2024, 12, 30),
        end=date(2025, 1, 5),
    )


@pytest.fixture(scope="module")
def url(market: SyntheticArchive) -> Iterator[str]:
    with ReplicaExchange(market) as exchange:
        yield exchange.url


def test_an_object_comes_with_its_headers(url: str, market: SyntheticArchive) -> None:
    blob = market.read(KEY)
    assert blob is not None
    reply = ask(url, KEY)
    assert (reply.status, reply.body) == (200, blob.body)
    assert reply.headers["ETag"] == f'"{hashlib.md5(blob.body).hexdigest()}"'
    assert int(reply.headers["Content-Length"]) == len(blob.body)
    assert reply.headers["Accept-Ranges"] == "bytes"
    modified = parsedate_to_datetime(reply.headers["Last-Modified"]).timestamp()
    assert modified == blob.head.modified_s
    head = ask(url, KEY, "HEAD")
    assert (head.status, head.body) == (200, b"")
    for name in ("ETag", "Content-Length", "Last-Modified", "Content-Type"):
        assert head.headers[name] == reply.headers[name]


def test_the_checksum_is_that_of_the_zip_and_both_lie_below_the_bucket_too(url: str) -> None:
    digest, name = ask(url, f"data.binance.vision/{KEY}.CHECKSUM").body.decode().split()
    assert digest == hashlib.sha256(ask(url, f"data.binance.vision/{KEY}").body).hexdigest()
    assert KEY.endswith(f"/{name}")


def test_symbols_beyond_ascii_are_listed_and_served(url: str) -> None:
    reply = ask(url, UNICODE)
    with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
        assert archive.namelist() == ["币安人生USDT-1h-2025-01-02.csv"]
    page = listing(url, prefix="data/spot/daily/klines/", delimiter="/")
    folders = [element.text for element in page.findall(f"{S3}CommonPrefixes/{S3}Prefix")]
    assert "data/spot/daily/klines/币安人生USDT/" in folders


def test_parts_conditions_and_their_failures(url: str) -> None:
    whole = ask(url, KEY)
    etag, modified = whole.headers["ETag"], whole.headers["Last-Modified"]
    part = ask(url, KEY, Range="bytes=5-9")
    assert (part.status, part.body) == (206, whole.body[5:10])
    assert part.headers["Content-Range"] == f"bytes 5-9/{len(whole.body)}"
    beyond = ask(url, KEY, Range="bytes=99999999-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(whole.body)}")
    assert ElementTree.fromstring(beyond.body).findtext("Code") == "InvalidRange"
    for condition in ({"If_None_Match": etag}, {"If_Modified_Since": modified}):
        unchanged = ask(url, KEY, **condition)
        assert (unchanged.status, unchanged.body, unchanged.headers["ETag"]) == (304, b"", etag)
    assert ask(url, KEY, If_Match='"other"').status == 412
    assert ask(url, KEY, Range="bytes=0-1", If_Range='"other"').status == 200


def test_a_missing_key_is_an_s3_error_like_the_recorded_one(url: str) -> None:
    reply = ask(url, "data/spot/a&b.zip")
    assert (reply.status, reply.headers["Content-Type"]) == (404, "application/xml")
    ours = ElementTree.fromstring(reply.body)
    assert (ours.findtext("Code"), ours.findtext("Key")) == ("NoSuchKey", "data/spot/a&b.zip")
    assert (ask(url, "data/nothing", "HEAD").status, ask(url, KEY, "PUT", b"x").status) == (
        404,
        405,
    )
    recorded = sorted((REAL / "recorded" / "s3_errors").glob("*.zip"))
    if not recorded:
        pytest.skip("no recorded S3 errors at ../shared/data/recorded/s3_errors")
    theirs = ElementTree.fromstring(recorded[0].read_bytes())
    assert [element.tag for element in ours] == [element.tag for element in theirs]
    assert ours.findtext("Message") == theirs.findtext("Message")


@pytest.mark.parametrize(
    "path",
    [
        "/data/../../etc/passwd",
        "/data/%2e%2e/%2e%2e/etc/passwd",
        "/../etc/passwd",
        "/data/spot/%00",
        "/data/%ff",
        "//etc/passwd",
        "/data/spot\\..\\x",
    ],
)
def test_no_path_leads_out_of_the_archive(tmp_path: Path, path: str) -> None:
    (tmp_path / "root/data/spot").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("secret")
    with ReplicaExchange(FolderArchive(tmp_path / "root")) as exchange:
        connection = http.client.HTTPConnection(exchange.url.removeprefix("http://"), timeout=10)
        connection.putrequest("GET", path, skip_host=False)
        connection.endheaders()
        reply = connection.getresponse()
        body = reply.read()
        connection.close()
    assert reply.status == 404
    assert b"secret" not in body


@pytest.mark.parametrize("delimiter", ["", "/"])
def test_2500_keys_come_in_three_pages(tmp_path: Path, delimiter: str) -> None:
    folder = tmp_path / "data" / "spot"
    folder.mkdir(parents=True)
    names = [f"data/spot/{number:04d}.zip" for number in range(2500)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    with ReplicaExchange(FolderArchive(tmp_path)) as exchange:
        pages, marker = [], ""
        while True:
            page = listing(exchange.url, prefix="data/spot/", delimiter=delimiter, marker=marker)
            pages.append(keys_of(page))
            if page.findtext(f"{S3}IsTruncated") == "false":
                break
            marker = page.findtext(f"{S3}NextMarker") or pages[-1][-1]
        tokens: dict[str, str] = {}
        second: list[str] = []
        while True:
            page = listing(exchange.url, "data.binance.vision", list_type="2", **tokens)
            second += keys_of(page)
            if page.findtext(f"{S3}IsTruncated") == "false":
                break
            tokens = {"continuation-token": page.findtext(f"{S3}NextContinuationToken") or ""}
    assert [len(some) for some in pages] == [1000, 1000, 500]
    assert [key for some in pages for key in some] == names == second
    first = page.find(f"{S3}Contents")
    assert first is not None
    size, etag = first.findtext(f"{S3}Size"), first.findtext(f"{S3}ETag")
    assert (size, etag) == ("18", f'"{hashlib.md5(names[2000].encode()).hexdigest()}"')


def test_a_bad_listing_query_is_an_s3_error(url: str) -> None:
    reply = _open(urllib.request.Request(f"{url}/?max-keys=many"))
    assert reply.status == 400
    assert ElementTree.fromstring(reply.body).findtext("Code") == "InvalidArgument"


def test_the_real_archive_is_served_byte_for_byte() -> None:
    root = REAL / "archive"
    if not root.is_dir():
        pytest.skip("no real files at ../shared/data/archive")
    with ReplicaExchange(FolderArchive(root)) as exchange:
        keys, marker = [], ""
        while True:
            page = listing(exchange.url, prefix="data/", marker=marker)
            keys += keys_of(page)
            if page.findtext(f"{S3}IsTruncated") == "false":
                break
            marker = keys[-1]
        files = {path.relative_to(root).as_posix() for path in root.rglob("data/**/*.*")}
        assert set(keys) == {name for name in files if (root / name).is_file()}
        assert keys == sorted(keys, key=str.encode)
        for key in keys[::50]:
            assert ask(exchange.url, key).body == (root / key).read_bytes()


def test_a_file_too_large_for_memory_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse_ray.testing.exchange.archive.IN_MEMORY_BYTES_MAX", 1000)
    monkeypatch.setattr(server, "PIECE_BYTES", 4096)
    body = bytes(range(256)) * 400
    (tmp_path / "data").mkdir()
    (tmp_path / "data/large.zip").write_bytes(body)
    with ReplicaExchange(FolderArchive(tmp_path)) as exchange:
        assert ask(exchange.url, "data/large.zip").body == body
        part = ask(exchange.url, "data/large.zip", Range="bytes=1000-60000")
        assert (part.status, part.body) == (206, body[1000:60001])
        slow = Faults((Rule("*", "short_body"),))
        exchange.set_faults(slow)
        with pytest.raises(http.client.IncompleteRead):
            ask(exchange.url, "data/large.zip")


def test_many_clients_at_once_all_get_the_same(market: SyntheticArchive) -> None:
    with ReplicaExchange(market) as exchange, ThreadPoolExecutor(16) as pool:
        bodies = set(pool.map(lambda _: ask(exchange.url, KEY).body, range(200)))
    assert len(bodies) == 1


# Faults of answers


def answers(
    market: SyntheticArchive, count: int, fault: str, **params: str | int | float
) -> list[Reply]:
    times = params.pop("times", None)
    assert times is None or isinstance(times, int)
    rules = Faults((Rule("data/*", fault, times=times, params=params),))
    with ReplicaExchange(market, rules) as exchange:
        return [ask(exchange.url, KEY) for _ in range(count)]


def test_404_first_and_200_later(market: SyntheticArchive) -> None:
    replies = answers(market, 3, "not_found", times=2)
    assert [reply.status for reply in replies] == [404, 404, 200]


@pytest.mark.parametrize(
    ("fault", "params", "status", "retry_after"),
    [
        ("server_error", {"status": 500}, 500, None),
        ("server_error", {"retry_after_s": 3}, 503, "3"),
        ("throttled", {"retry_after_s": 7}, 429, "7"),
        ("throttled", {"status": 418}, 418, "1"),
        ("denied", {}, 403, None),
    ],
)
def test_refusals_say_when_to_come_back(
    market: SyntheticArchive,
    fault: str,
    params: dict[str, int],
    status: int,
    retry_after: str | None,
) -> None:
    bad, good = answers(market, 2, fault, times=1, **params)
    assert (bad.status, bad.headers["Retry-After"], good.status) == (status, retry_after, 200)
    assert ElementTree.fromstring(bad.body).tag == "Error"


def test_error_bodies_and_pages_come_with_200(market: SyntheticArchive) -> None:
    (xml,) = answers(market, 1, "s3_error", code="SlowDown")
    assert (xml.status, ElementTree.fromstring(xml.body).findtext("Code")) == (200, "SlowDown")
    (page,) = answers(market, 1, "html_page")
    assert page.status == 200
    assert page.body.startswith(b"<!DOCTYPE html>")


def test_slow_answers_are_slow_and_whole(market: SyntheticArchive) -> None:
    size = len(answers(market, 1, "slow")[0].body)
    started = time.perf_counter()
    (reply,) = answers(market, 1, "slow", first_byte_s=0.2, bytes_per_s=size * 3.0)
    assert time.perf_counter() - started > 0.2 + 0.3
    assert len(reply.body) == size


def test_connections_are_reset_in_the_middle_of_a_body(market: SyntheticArchive) -> None:
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        answers(market, 1, "reset", after_bytes=100)


def test_a_body_can_be_shorter_than_its_length_says(market: SyntheticArchive) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        answers(market, 1, "short_body", keep=0.25)
    assert len(caught.value.partial) > 0


def test_listings_fail_too_when_the_rules_name_them(market: SyntheticArchive) -> None:
    rules = Faults((Rule("?prefix=data/spot/*", "server_error", times=1),))
    with ReplicaExchange(market, rules) as exchange:
        path = f"{exchange.url}/?prefix=data/spot/&delimiter=/"
        statuses = [_open(urllib.request.Request(path)).status for _ in range(2)]
    assert statuses == [503, 200]


def test_a_share_of_requests_fails_the_same_in_every_run(market: SyntheticArchive) -> None:
    def run() -> list[int]:
        rules = Faults((Rule("data/*", "server_error", probability=0.5),), seed=9)
        with ReplicaExchange(market, rules) as exchange:
            return [ask(exchange.url, KEY).status for _ in range(20)]

    first = run()
    assert set(first) == {200, 503}
    assert run() == first


# Faults of objects


def test_a_defective_object_agrees_with_its_listing(market: SyntheticArchive) -> None:
    rules = Faults((Rule(KEY, "unordered_rows"), Rule("*-2025-01-03.zip", "missing_checksum")))
    with ReplicaExchange(market, rules) as exchange:
        page = listing(exchange.url, prefix="data/spot/daily/klines/BTCUSDT/1h/")
        objects = {item.findtext(f"{S3}Key"): item for item in page.findall(f"{S3}Contents")}
        reply = ask(exchange.url, KEY)
        assert objects[KEY].findtext(f"{S3}Size") == str(len(reply.body))
        assert objects[KEY].findtext(f"{S3}ETag") == reply.headers["ETag"]
        missing = f"{KEY.replace('01-02', '01-03')}.CHECKSUM"
        assert missing not in objects
        assert ask(exchange.url, missing).status == 404
        assert reply.body != market_body(market, KEY)


def market_body(market: SyntheticArchive, key: str) -> bytes:
    blob = market.read(key)
    assert blob is not None
    return blob.body


def test_an_object_is_republished_while_the_server_runs(market: SyntheticArchive) -> None:
    with ReplicaExchange(market) as exchange:
        first = ask(exchange.url, KEY)
        body = json.dumps({"match": KEY, "then": "missing_rows"}).encode()
        assert ask(exchange.url, "_control/republish", "POST", body).status == 200
        second = ask(exchange.url, KEY, If_None_Match=first.headers["ETag"])
        assert second.status == 200
        assert len(second.body) < len(first.body)
        later, earlier = (
            parsedate_to_datetime(reply.headers["Last-Modified"]) for reply in (second, first)
        )
        assert later > earlier
        digest = ask(exchange.url, f"{KEY}.CHECKSUM").body.split()[0].decode()
        assert digest == hashlib.sha256(second.body).hexdigest()
        assert ask(exchange.url, UNICODE).body == market_body(market, UNICODE)


# Control


def test_requests_are_counted_and_rules_replaced(market: SyntheticArchive) -> None:
    with ReplicaExchange(market) as exchange:
        ask(exchange.url, KEY)
        ask(exchange.url, KEY, "HEAD")
        listing(exchange.url, prefix="data/spot/")
        counted = json.loads(ask(exchange.url, "_control/requests").body)
        assert counted == {"requests": {KEY: 2, "?prefix=data/spot/": 1}, "total": 3}
        assert exchange.requests() == counted["requests"]
        rules = json.dumps({"rules": [{"match": KEY, "fault": "not_found"}]}).encode()
        assert ask(exchange.url, "_control/faults", "POST", rules).status == 200
        assert ask(exchange.url, KEY).status == 404
        assert ask(exchange.url, "_control/faults", "POST", b"{}").status == 200
        assert ask(exchange.url, KEY).status == 200


@pytest.mark.parametrize(
    ("method", "route", "body", "status"),
    [
        ("POST", "faults", b'{"rules": [{"match": "*", "fault": "gremlins"}]}', 400),
        ("POST", "faults", b"{", 400),
        ("POST", "faults", b"\xff", 400),
        ("POST", "republish", b'{"then": ""}', 400),
        ("POST", "republish", b'{"match": 1}', 400),
        ("POST", "republish", b'{"match": "*", "then": "nonsense"}', 400),
        ("POST", "republish", b"[]", 400),
        ("POST", "nothing", b"", 404),
        ("GET", "faults", None, 404),
    ],
)
def test_bad_orders_are_refused_in_words(
    url: str, method: str, route: str, body: bytes | None, status: int
) -> None:
    reply = ask(url, f"_control/{route}", method, body)
    assert reply.status == status
    assert json.loads(reply.body)["error"]


def test_a_port_in_use_is_named_with_what_to_do(market: SyntheticArchive) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port}.*--port"):
            ReplicaExchange(market, port=port).start()


def test_stopping_does_not_wait_for_idle_or_slow_clients(market: SyntheticArchive) -> None:
    rules = Faults((Rule("data/*", "slow", params={"first_byte_s": 60.0}),))
    with ReplicaExchange(market, rules) as exchange:
        host, port = exchange.url.removeprefix("http://").split(":")
        idle = socket.create_connection((host, int(port)))
        slow = socket.create_connection((host, int(port)))
        slow.sendall(f"GET /{KEY} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        deadline = time.monotonic() + 5
        while not exchange.requests() and time.monotonic() < deadline:
            time.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    idle.close()
    slow.close()


# The command

_PROGRAM = "import typer; from lakehouse_ray.cli.exchange import exchange; typer.run(exchange)"


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_answers_and_stops_when_told(
    tmp_path: Path, stop: signal.Signals
) -> None:
    rules = tmp_path / "faults.toml"
    rules.write_text('[[rules]]\nmatch = "*.CHECKSUM"\nfault = "not_found"\n')
    command = [sys.executable, "-c", _PROGRAM, "--synthetic", "--json", "--faults", str(rules)]
    options = [
        "--symbols",
        "BTCUSDT",
        "--markets",
        "spot",
        "--start",
        "2025-01",
        "--end",
        "2025-01-04",
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            document = json.loads(process.stdout.readline())
            assert ask(document["url"], KEY).status == 200
            assert ask(document["url"], f"{KEY}.CHECKSUM").status == 404
            process.send_signal(stop)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert errors.strip() == f"serving {document['serving']} at {document['url']}"
