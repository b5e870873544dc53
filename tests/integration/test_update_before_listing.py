"""A range that begins long before a contract's first trade costs what its trades cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.captured import Captured, assert_whole, captured

pytestmark = pytest.mark.integration
WEIGHT_OF_TRADES = 20


def update(exchange: Captured, home: Path, dataset: str, *more: str) -> dict[str, Any]:
    process = exchange.run(
        home, "update", "--market", "um", "--dataset", dataset, "--symbols", "BTCUSDT",
        "--start", "2024-03-01", "--no-build", *more,
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.mark.parametrize("dataset", ["aggTrades", pytest.param("trades", marks=pytest.mark.slow)])
def test_nobody_asks_hour_by_hour_for_what_was_before_the_first_trade(
    tmp_path: Path, dataset: str
) -> None:
    home = tmp_path / "lake"
    # Two months and ten hours, of which ten hours have trades.
    with captured(symbols=("BTCUSDT",), at="2024-05-01T10:00") as exchange:
        planned = update(exchange, home, dataset, "--dry-run")
        assert planned["costs"]["um"]["weight"] == planned["requests"] * WEIGHT_OF_TRADES
        before = exchange.exchange.told_limits()["um"]["requests"]
        report = update(exchange, home, dataset)
        sent = exchange.exchange.told_limits()["um"]["requests"] - before
        rows = assert_whole(home, exchange, (dataset,))
        before += sent
        again = update(exchange, home, dataset)
        sent_again = exchange.exchange.told_limits()["um"]["requests"] - before
    assert report["rows"] == rows
    assert rows > 500
    # The exchange's time and the first bar beside what the rows take.
    assert report["requests"] + 2 == sent
    assert sent < 60
    # How many rows a day it has, nobody knows before; since when, the plan says.
    assert planned["fills"][0]["start"] == "2024-05-01T00:00:00Z"
    assert planned["requests"] < 300
    # Nor once it is stored, although the days before its first row were never asked for.
    assert again["rows"] == 0
    assert sent_again < 10
