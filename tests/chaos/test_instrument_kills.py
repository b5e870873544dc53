"""Ingestion of instruments is killed at seeded moments; the next run completes it, and one more adds
nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import polars as pl
import pytest
from support.commands import environment, running
from support.in_process import run_here

import lakehouse_ray as lh
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange, RestAnswers

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

SEED = 41
ROUNDS = 8
SYMBOLS = [f"S{number:03}USDT" for number in range(400)]
ROUTE = "fapi/v1/exchangeInfo"
INGEST = ("ingest", "--market", "um", "--dataset", "instruments")


def answer(statuses: dict[str, str], number: int) -> bytes:
    symbols = [
        {"symbol": name, "status": status, "baseAsset": name[:-4], "quoteAsset": "USDT"}
        for name, status in statuses.items()
    ]
    return json.dumps({"serverTime": number, "symbols": [*symbols, {"symbol": "BAD"}]}).encode()


def test_a_run_killed_at_any_moment_is_completed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "archive/data").mkdir(parents=True)
    rng, rest = random.Random(SEED), RestAnswers()
    statuses = dict.fromkeys(SYMBOLS, "TRADING")
    with ReplicaExchange(FolderArchive(tmp_path / "archive"), rest=rest) as exchange:
        env = environment(
            HOME=tmp_path / "home", BINANCE__ARCHIVE_URL=exchange.url, BINANCE__UM_URL=exchange.url
        )
        for number in range(ROUNDS):
            for name in rng.sample(SYMBOLS, 20):
                statuses[name] = rng.choice(["TRADING", "SETTLING", f"X{number}"])
            rest.put(ROUTE, answer(statuses, number))
            bronze = tmp_path / "home/data/bronze/binance/fapi/v1"
            before = len(list(bronze.glob("*.json")))
            with running(*INGEST, env=env) as command:
                # From the moment in which the answer is in bronze on; some end before.
                while command.process.poll() is None and len(list(bronze.glob("*.json"))) <= before:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.25))
                if command.process.poll() is None:
                    os.kill(command.process.pid, signal.SIGKILL)
            done = run_here(*INGEST, env=env)
            assert done.returncode in (0, 3), done.stderr
            check(tmp_path / "home", statuses)
            done = run_here(*INGEST, "--json", env=env)
            assert done.returncode == 0, done.stderr
            report = json.loads(done.stdout)
            assert (report["rows"], report["commits"]) == (0, 0)


def check(home: Path, statuses: dict[str, str]) -> None:
    lake = lh.connect(home)
    assert dict(lake.instruments("um").select("symbol", "status").iter_rows()) == statuses
    log = lake.sql("select * from silver.instrument_log order by symbol, valid_from").pl()
    following = pl.col("valid_from").shift(-1).over("symbol")
    assert log.filter(pl.col("valid_to").ne_missing(following)).is_empty()
    again = lake.sql(
        "select symbol, digest, source_version, count(*) n from silver.instrument_states "
        "group by all having n > 1"
    )
    assert again.pl().is_empty()
    versions = lake.sql("select state, count(*) from bronze.objects group by all").pl()
    assert versions["state"].to_list() == ["built"]
    named = lake.sql(
        "select distinct source_version from silver.instrument_states "
        "anti join bronze.objects on version = source_version"
    )
    assert named.pl().is_empty()
