"""What goes wrong behind the exchange's API is told in the exchange's shape; what changes is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars
from support.served import running, serving, source_at

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.serve.app import create_app
from lakehouse_ray.serve.limits import Limits

pytestmark = pytest.mark.integration

BTC: dict[str, object] = {"symbol": "BTCUSDT", "interval": "1h"}


def test_what_is_committed_is_seen_by_the_next_request(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "home")
    lake.put(bars("BTCUSDT", "2024-01-01", 2, holes=0))
    with serving(tmp_path / "home") as served:

        def symbols() -> list[str]:
            return [one["symbol"] for one in served.get("/api/v3/exchangeInfo").json["symbols"]]

        assert symbols() == symbols() == ["BTCUSDT"]
        before = served.get("/api/v3/klines", **BTC, limit=1000)
        assert len(before.json) == 48
        assert served.get("/api/v3/klines", symbol="ETHUSDT", interval="1h").json["code"] == -1121

        lake.put(
            bars("BTCUSDT", "2024-01-03", 1, holes=0), bars("ETHUSDT", "2024-01-01", 1, holes=0)
        )
        assert symbols() == ["BTCUSDT", "ETHUSDT"]
        after = served.get("/api/v3/klines", **BTC, limit=1000)
        assert after.json[:48] == before.json
        assert len(after.json) == 72
        assert after.headers["ETag"] != before.headers["ETag"]
        assert len(served.get("/api/v3/klines", symbol="ETHUSDT", interval="1h").json) == 24


def test_failures_have_codes_that_clients_try_again_on(tmp_path: Path) -> None:
    BarLake(tmp_path / "home").put(bars("BTCUSDT", "2024-01-01", 1, holes=0))
    source = source_at(tmp_path / "home")

    def answer(limits: Limits | None = None, error: Exception | None = None) -> tuple[int, Any]:
        def find_all(names: Any) -> Any:
            if error is not None:
                raise error
            return source.find_all(names)

        with running(create_app(replace(source, find_all=find_all), limits)) as served:
            reply = served.get("/api/v3/klines", **BTC)
            assert set(reply.json) == {"code", "msg"}
            return reply.status, reply.json["code"]

    assert answer(Limits(statement_timeout_s=1e-4)) == (504, -1007)
    assert answer(Limits(statements=1, waiting_max=-1)) == (503, -1008)
    assert answer(error=UnavailableError("the catalog at /secret/path is away")) == (503, -1008)
    assert answer(error=RuntimeError("a mistake of ours at /secret/path")) == (500, -1000)


def test_texts_of_failures_tell_nothing(tmp_path: Path) -> None:
    source = source_at(tmp_path / "home")

    def find_all(names: Any) -> Any:
        raise RuntimeError("a mistake of ours at /secret/path")

    with running(create_app(replace(source, find_all=find_all))) as served:
        for path in ("/api/v3/klines", "/fapi/v1/exchangeInfo"):
            reply = served.get(path, **(BTC if "klines" in path else {}))
            assert reply.status == 500
            assert b"secret" not in reply.body
        assert served.get("/api/v3/ping").body == b"{}"
        posted = served.post("/api/v3/klines", b"{}")
        assert (posted.status, posted.json["code"]) == (405, -5000)


def test_an_empty_lake_has_markets_without_symbols(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as served:
        for prefix in ("/api/v3", "/fapi/v1", "/dapi/v1"):
            assert served.get(f"{prefix}/exchangeInfo").json["symbols"] == []
            assert served.get(f"{prefix}/klines", **BTC).json == {
                "code": -1121,
                "msg": "Invalid symbol.",
            }
