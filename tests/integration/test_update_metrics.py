"""Samples of metrics come by five routes: what one lacks for a while is asked for until it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.captured import Captured, captured
from support.streamed import asked

from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.testing.exchange import Faults, Rule

pytestmark = pytest.mark.integration
RATIO = "futures/data/topLongShortAccountRatio"


def update(exchange: Captured, home: Path, *more: str) -> dict[str, Any]:
    process = exchange.run(
        home, "update", "--market", "um", "--dataset", "metrics", "--symbols", "BTCUSDT",
        "--start", "2024-05-01T08:00", *more,
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    # Nothing is made of metrics: that there is nothing to build is no failure.
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


def samples(home: Path) -> list[dict[str, Any]]:
    return asked(
        home,
        "select epoch_ms(create_time) as ms, sum_open_interest as interest, "
        "count_toptrader_long_short_ratio as ratio from silver.metrics order by 1",
    )


def test_cells_that_the_exchange_did_not_tell_are_asked_for_until_it_does(tmp_path: Path) -> None:
    home = tmp_path / "lake"
    with captured(symbols=("BTCUSDT",)) as exchange:
        lacking = Faults((Rule(RATIO, "empty_list"),))
        exchange.exchange.set_faults(lacking)
        update(exchange, home)
        partial = samples(home)
        assert len(partial) >= 20
        assert {row["ratio"] for row in partial} == {None}
        # It is no failure that there is nothing new yet, and the plan says that it asks.
        assert update(exchange, home, "--dry-run")["requests"] > 0
        update(exchange, home)
        assert samples(home) == partial
        exchange.exchange.set_faults(Faults())
        update(exchange, home)
        whole = samples(home)
        assert [row | {"ratio": None} for row in whole] == partial
        assert all(row["ratio"] > 0 for row in whole)
        assert update(exchange, home)["requests"] == 0


def test_cells_that_the_exchange_never_has_are_not_asked_for_for_ever(tmp_path: Path) -> None:
    home = tmp_path / "lake"
    with captured(symbols=("BTCUSDT",)) as exchange:
        exchange.exchange.set_faults(Faults((Rule(RATIO, "empty_list"),)))
        until = "--end", "2024-05-01T10:00"
        update(exchange, home, *until)
        exchange.clock.advance_to(parse_time("2024-05-02T10:01"))
        assert update(exchange, home, *until)["requests"] > 0
        assert update(exchange, home, *until)["requests"] == 0
        # Who wants to, can.
        exchange.exchange.set_faults(Faults())
        assert update(exchange, home, *until, "--again")["requests"] > 0
        assert all(row["ratio"] for row in samples(home))
