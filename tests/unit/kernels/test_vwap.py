"""Average price by volume: of each market's own units."""

from __future__ import annotations

import json

import polars as pl
import pytest
from support.made_bars import made_bars
from support.real_klines import SHARED, SPOT_DAILY, UM_DAILY, bars_of_rest, bars_of_zips

from lakehouse_ray.kernels.vwap import vwap
from lakehouse_ray.model.instrument import contract_size_usd

RECORDED = SHARED / "recorded/rest_json/gocryptotrader/http.json"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not on this machine")


def within(bars: pl.DataFrame) -> pl.Expr:
    # Sums of the exchange are rounded to 8 decimals.
    slack = 1e-6 * pl.col("close")
    return pl.col("vwap").is_between(pl.col("low") - slack, pl.col("high") + slack)


@real
@pytest.mark.parametrize(
    "folder", [SPOT_DAILY / "BTCUSDT/15m", UM_DAILY / "BTCUSDT/1m", UM_DAILY / "BSVUSDT/1m"]
)
def test_the_average_of_real_bars_lies_between_low_and_high(folder) -> None:  # type: ignore[no-untyped-def]
    bars = bars_of_zips(folder)
    priced = bars.with_columns(vwap=vwap("spot"))
    traded = pl.col("volume") > 0
    assert priced.filter(traded & ~within(bars)).height == 0
    assert priced.filter(~traded)["vwap"].null_count() == priced.filter(~traded).height


def recorded(route: str) -> list[dict]:  # type: ignore[type-arg]
    return json.loads(RECORDED.read_text())["routes"][route]["GET"]


@real
def test_coin_margined_bars_average_contracts_by_their_size(tmp_path) -> None:  # type: ignore[no-untyped-def]
    seen = 0
    for answer in recorded("/dapi/v1/klines"):
        if not isinstance(answer["data"], list):
            continue
        symbol = answer["queryString"].rpartition("symbol=")[2]
        file = tmp_path / "rows.json"
        file.write_text(json.dumps(answer["data"]))
        bars = bars_of_rest(file).filter(pl.col("volume") > 0)
        priced = bars.with_columns(vwap=vwap("cm", contract_size_usd(symbol)))
        assert priced.filter(within(bars)).height == bars.height
        # Quote by base volume, as on other markets, is nowhere near a price here.
        naive = bars.with_columns(vwap=vwap("um"))
        assert naive.filter(within(bars)).height == 0
        seen += bars.height
    assert seen > 5


@real
def test_contract_sizes_are_those_the_exchange_lists() -> None:
    contracts = [
        contract
        for answer in recorded("/dapi/v1/exchangeInfo")
        for contract in answer["data"]["symbols"]
    ]
    assert len(contracts) > 20
    for contract in contracts:
        assert contract_size_usd(contract["symbol"]) == contract["contractSize"]


def test_without_volume_or_contract_size_there_is_no_average() -> None:
    bars = made_bars([0, 1, 2]).with_columns(
        volume=pl.Series([0.0, float("nan"), 2.0]), quote_volume=pl.Series([0.0, 5.0, 5.0])
    )
    assert bars.select(vwap("spot")).to_series().to_list() == [None, None, 2.5]
    assert bars.select(vwap("cm", 10.0)).to_series().to_list() == [None, None, 4.0]
    assert bars.with_columns(v=vwap("cm"))["v"].to_list() == [None, None, None]
