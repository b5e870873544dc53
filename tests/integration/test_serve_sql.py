"""SQL of strangers: its answers, its ends, and that each layer alone keeps files out of reach."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import polars as pl
import psutil
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars
from support.commands import LAKEHOUSE, environment
from support.served import Reply, Served, serving

import lakehouse_ray as lh
from lakehouse_ray.serve.limits import Limits

pytestmark = pytest.mark.integration

CANARY = "c4n4ry-of-the-server"
TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sql") / "home"
    BarLake(home).put(bars("BTCUSDT", "2024-01-01", 20), bars("ETHUSDT", "2024-01-01", 20))
    (home / "secret.csv").write_text(f"k,v\n{CANARY},1\n")
    return home


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    os.environ["LAKEHOUSE_TEST_CANARY"] = CANARY
    limits = Limits(
        statement_timeout_s=TIMEOUT_S, memory_bytes=256 << 20, rows_max=1000, sql_statements=2
    )
    with serving(home, limits) as served:
        yield served
    del os.environ["LAKEHOUSE_TEST_CANARY"]


def ask(served: Served, query: str, form: str = "json", **more: object) -> Reply:
    body = json.dumps({"query": query, **more}).encode()
    return served.post(f"/v1/sql?format={form}", body, {"Content-Type": "application/json"})


def test_answers_are_those_of_the_sdk(home: Path, served: Served) -> None:
    query = (
        "select symbol, time_bucket(interval 1 day, open_time) as day, sum(volume) as volume, "
        "arg_max(close, open_time) as close from silver.klines where interval = '1h' "
        "group by all order by all"
    )
    wanted = lh.connect(home).sql(query).pl()
    got = ask(served, query, "arrow")
    assert got.status == 200, got.body
    frame = pl.from_arrow(pa.ipc.open_stream(got.body).read_all())
    assert isinstance(frame, pl.DataFrame)
    assert_frame_equal(frame, wanted)
    assert int(got.headers["Lakehouse-Rows"]) == wanted.height == 40
    assert got.headers["Cache-Control"] == "private, no-store"
    again = served.get("/v1/sql", query=query, as_of=got.headers["Lakehouse-Snapshots"])
    assert again.json["row_count"] == 40
    (row,) = ask(served, "select ? + 1 as a, ? as b", parameters=[41, "x'; drop"]).json["rows"]
    assert row == {"a": 42, "b": "x'; drop"}
    named = ask(served, "select 1 as a, 2 as a, 3 as a_1").json["columns"]
    assert len({column["name"] for column in named}) == 3
    assert ask(served, "select 1 as a where false", "csv").body == b"a\n"


def test_earlier_versions_are_asked_as_everywhere(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "home")
    lake.put(bars("BTCUSDT", "2024-01-01", 2))
    with serving(lake.home) as served:
        count = "select count(*) as n from silver.klines"
        first = ask(served, count)
        lake.put(bars("ETHUSDT", "2024-01-01", 2))
        now = ask(served, count).json["rows"][0]["n"]
        then = ask(served, count, as_of=first.headers["Lakehouse-Snapshots"]).json["rows"]
        assert then == first.json["rows"]
        assert now > then[0]["n"]


WRONG = [
    ("selec 1", 'syntax error at or near "selec"'),
    ("select nope from silver.klines", "there is no column 'nope'"),
    ("select * from silver.klinez", "there is no table 'silver.klinez'"),
    ("select * from klines", "there is no table 'klines'"),
    ("select 1; select 2", "only one SELECT"),
    ("drop table silver.klines", "only one SELECT"),
    ("select * from read_csv('/etc/passwd')", "'read_csv' is not allowed"),
    ("select 'secret-value-9'::int", "the statement failed: conversion"),
    ("select (symbol || 'secret-value-9')::int from silver.klines", "the statement failed"),
    ("select symbol.nope(1) from silver.klines", "not allowed"),
    ("select 'infinity'::timestamp", "a time that no text has"),
    ("select ['infinity'::timestamptz]", "a time that no text has"),
    ("select 170141183460469231731687303715884105727", "more digits"),
]


@pytest.mark.parametrize(("query", "detail"), WRONG)
def test_what_is_wrong_is_told_and_no_value_with_it(
    served: Served, home: Path, query: str, detail: str
) -> None:
    reply = ask(served, query)
    assert (reply.status, reply.headers["Content-Type"]) == (422, "application/problem+json")
    assert detail in reply.json["detail"]
    assert reply.json["hint"]
    assert str(home).encode() not in reply.body
    assert b"secret-value-9" not in reply.body
    assert b"BTCUSDT" not in reply.body


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"query": 1}', b'{"query": "select 1", "x": 1}', b'{"query": ""}',
     b"\xff\xfe", b'{"query": "select ?", "parameters": [[1]]}', b'{"query": "select \\ud800"}'],
)  # fmt: skip
def test_broken_bodies_are_problems(served: Served, body: bytes) -> None:
    reply = served.post("/v1/sql", body, {"Content-Type": "application/json"})
    assert (reply.status, reply.json["code"]) == (422, "invalid"), reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.json["hint"]
    text = served.post("/v1/sql", b'{"query": "select 1"}', {"Content-Type": "text/plain"})
    assert text.status in (415, 422)


RUNAWAY = [
    # By time, by memory, and by what is put aside on disk.
    "select count(*) from range(10000000) a, range(10000000) b",
    "with recursive t(s) as (select 'x' union all select s || s from t) select max(len(s)) from t",
    "select a.open from silver.klines a, silver.klines b, silver.klines c order by random()",
    *(
        pytest.param(query, marks=pytest.mark.slow)
        for query in (
            "with recursive t(n) as (select 1 union all select n + 1 from t) select max(n) from t",
            "select a.i, list(b.i) from range(10000000) a(i), range(1000) b(i) group by 1",
            "select list_sort(list(i)), list(i), list(-i) from range(10000000) t(i), range(3)",
        )
    ),
]


@pytest.mark.parametrize("query", RUNAWAY)
def test_a_runaway_ends_and_the_next_is_answered(served: Served, query: str) -> None:
    began = time.monotonic()
    reply = ask(served, query)
    assert reply.json["code"] in ("deadline", "too_large"), reply.body
    assert time.monotonic() - began < TIMEOUT_S + 3
    assert ask(served, "select 42 as answer").json["rows"] == [{"answer": 42}]


def test_more_rows_than_may_be_are_an_error(served: Served) -> None:
    reply = ask(served, "select * from range(1001)")
    assert (reply.status, reply.json["code"]) == (422, "too_large")
    assert ask(served, "select * from range(1000)").json["row_count"] == 1000


def test_statements_at_once_wait_for_each_other(served: Served) -> None:
    replies: list[Reply] = []
    threads = [
        threading.Thread(target=lambda n=n: replies.append(ask(served, f"select {n} as n")))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.json["rows"][0]["n"] for reply in replies) == list(range(6))


def _is_mother(process: psutil.Process) -> bool:
    try:
        return any("sandbox_child" in part for part in process.cmdline())
    except psutil.ZombieProcess:
        return False


def statement_processes() -> tuple[psutil.Process, list[psutil.Process]]:
    """The one that is copied, of the service that began last, and its copies that wait: two of them,
    when the one that took the last statement is replaced."""
    children: list[psutil.Process] = []
    for _ in range(100):
        *_, mother = (child for child in psutil.Process().children() if _is_mother(child))
        children = mother.children()
        if len(children) == 2:
            break
        time.sleep(0.05)
    return mother, children


def test_a_process_that_was_killed_is_replaced(served: Served) -> None:
    mother, children = statement_processes()
    assert len(children) == 2
    for child in children:
        assert CANARY not in "".join(child.environ().values())
        child.kill()
    for _ in range(3):
        assert ask(served, "select 42 as answer").json["rows"] == [{"answer": 42}]
    _, children = statement_processes()
    mother.kill()
    gone, alive = psutil.wait_procs([mother, *children], timeout=10)
    assert (len(gone), alive) == (3, [])
    for _ in range(3):
        assert ask(served, "select 42 as answer").json["rows"] == [{"answer": 42}]


def test_a_process_has_nothing_of_another_s(served: Served) -> None:
    """Neither its pipes nor the line of the one it was copied from; and it leads its own session."""
    ask(served, "select 1")

    def targets(process: psutil.Process) -> list[str]:
        folder = f"/proc/{process.pid}/fd"
        return [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]

    def shared() -> list[str]:
        """What two of them hold; and sockets, which a copy has none of."""
        mother, children = statement_processes()
        if len(children) != 2:
            return [f"{len(children)} processes wait"]
        held = [{t for t in targets(child) if not t.startswith("/")} for child in children]
        sockets = [t for one in held for t in one if t.startswith("socket:")]
        outside = [str(c.pid) for c in children if os.getsid(c.pid) != c.pid]
        both = (held[0] & held[1]) | ((held[0] | held[1]) & set(targets(mother)))
        return [*both, *sockets, *outside]

    # The one that took the statement is replaced by and by.
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            found = shared()
            if not found:
                break
        time.sleep(0.05)
    assert found == []


def test_processes_of_statements_end_with_the_service(home: Path) -> None:
    with serving(home, Limits(sql_statements=2)) as served:
        ask(served, "select 1")
        mother, children = statement_processes()
    gone, alive = psutil.wait_procs([mother, *children], timeout=10)
    assert (len(gone), alive) == (3, [])


# Layers one by one: the process itself, with the others taken out.
_WITHOUT_GATE = "c.check = lambda *a: None"
_WITHOUT_LOCKS = f"{_WITHOUT_GATE}; import duckdb; c.open_database = lambda job: duckdb.connect()"
_WITHOUT_CONFINEMENT = (
    f"{_WITHOUT_GATE}; c.confine = lambda paths: True; c.limit = lambda a, b: None"
)


def run_child(
    without: str, query: str, paths: list[str], *, must_confine: bool = False
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    script = f"import lakehouse_ray.serve.sandbox_child as c; {without}; c.main()"
    job: dict[str, Any] = {
        "query": query, "parameters": None, "schemas": ["silver"], "views": [], "tables": [],
        "paths": paths, "folders": [], "columns": {}, "rows_max": 1000, "threads": 1,
        "memory_bytes": 256 << 20, "address_bytes": 4 << 30, "timeout_s": 10, "cpu_s": 20,
        "must_confine": must_confine,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(job).encode() + b"\n",
        capture_output=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    frames, rest = [], done.stdout
    while rest:
        kind, size = struct.unpack(">cI", rest[:5])
        frames.append((kind, rest[5 : 5 + size]))
        rest = rest[5 + size :]
    return done.stdout, frames


@pytest.mark.parametrize(
    "without", [_WITHOUT_LOCKS, _WITHOUT_CONFINEMENT], ids=["confinement alone", "locks alone"]
)
def test_each_layer_alone_keeps_files_out_of_reach(home: Path, without: str) -> None:
    secret = str(home / "secret.csv")
    link = home / "link.csv"
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    target = str(home / "written.csv")
    for query in (
        f"select * from read_csv('{secret}')",
        f"select * from '{secret}'",
        f"select content from read_text('{secret}')",
        f"select content from read_text('{link}')",
        f"select content from read_text('{home}/data/../secret.csv')",
        "select content from read_text('/proc/self/environ')",
        f"copy (select 1 as a) to '{target}'",
        f"copy (select 1 as a) to '{target}' (use_tmp_file false)",
        "select * from read_csv('http://127.0.0.1:9/x.csv')",
    ):
        out, frames = run_child(without, query, [])
        assert frames[-1][0] == b"E", (query, frames)
        assert CANARY.encode() not in out, query
    assert not Path(target).exists()
    # The layers are not so tight that nothing would be read at all.
    files = [str(path) for path in (home / "data").rglob("*.parquet")]
    _, frames = run_child(without, f"select count(*) from read_parquet('{files[0]}')", files)
    assert frames[-1][0] == b"D", frames


def test_a_file_of_the_lake_is_not_written_over(home: Path) -> None:
    files = [str(path) for path in (home / "data").rglob("*.parquet")]
    before = Path(files[0]).read_bytes()
    query = f"copy (select 1 as a) to '{files[0]}' (format parquet, use_tmp_file false)"
    _, frames = run_child(_WITHOUT_LOCKS, query, files)
    assert frames[-1][0] == b"E"
    assert Path(files[0]).read_bytes() == before


def test_there_is_no_sql_where_it_is_turned_off(home: Path) -> None:
    with serving(home, Limits(sql_statements=0)) as served:
        reply = ask(served, "select 1")
        assert (reply.status, "sql_statements" in reply.json["hint"]) == (404, True)


@contextmanager
def without_landlock(home: Path, **settings: object) -> Iterator[tuple[Served, IO[str]]]:
    """The command on a kernel that does not know Landlock's calls; and what it says."""
    env = environment(HOME=home, LOG__FORMAT="json", **settings)
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-m", "support.no_landlock", LAKEHOUSE, "serve", "--no-ray", "--port", "0",
         "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            yield Served(json.loads(process.stdout.readline())["url"]), process.stderr
        finally:
            process.kill()


def test_without_landlock_there_is_no_sql(home: Path) -> None:
    with without_landlock(home) as (served, _):
        reply = ask(served, "select 1 as one")
        assert (reply.status, reply.json["code"]) == (404, "not_found")
        assert "serve.sql_unconfined = true" in reply.json["hint"]
        assert served.get("/v1/klines", symbol="BTCUSDT", interval="1h").status == 200


def test_without_landlock_an_operator_may_allow_sql(home: Path) -> None:
    with without_landlock(home, SERVE__SQL_UNCONFINED="true") as (served, said):
        assert any("unconfined" in line for line in iter(said.readline, ""))
        rows = ask(served, "select count(*) > 0 as some from silver.klines").json["rows"]
        assert rows == [{"some": True}]
        # What is left keeps files out of reach.
        for query in (f"select * from read_csv('{home}/secret.csv')", f"from '{home}/secret.csv'"):
            reply = ask(served, query)
            assert reply.status == 422
            assert CANARY.encode() not in reply.body


def test_a_process_that_has_to_be_confined_and_cannot_answers_nothing() -> None:
    forbid = "from support.no_landlock import forbid_landlock; forbid_landlock()"
    for must, kind in ((True, b"E"), (False, b"D")):
        _, frames = run_child(f"{_WITHOUT_GATE}; {forbid}", "select 1", [], must_confine=must)
        assert frames[-1][0] == kind, frames
