"""What the spelling of a symbol tells."""

from __future__ import annotations

import pytest

from lakehouse_ray.model.instrument import parse_symbol


@pytest.mark.parametrize(
    ("symbol", "market", "base", "quote", "contract"),
    [
        ("BTCUSDT", "spot", "BTC", "USDT", "spot"),
        ("BTCFDUSD", "spot", "BTC", "FDUSD", "spot"),
        ("BTCTUSD", "spot", "BTC", "TUSD", "spot"),
        ("BTCTRY", "spot", "BTC", "TRY", "spot"),
        ("ADAEUR", "spot", "ADA", "EUR", "spot"),
        ("BTCEUR", "spot", "BTC", "EUR", "spot"),
        ("AEURUSDT", "spot", "AEUR", "USDT", "spot"),
        ("BTCAEUR", "spot", "BTC", "AEUR", "spot"),
        ("1000SATSUSDT", "spot", "1000SATS", "USDT", "spot"),
        ("0GUSDT", "spot", "0G", "USDT", "spot"),
        ("BTCUSD1", "spot", "BTC", "USD1", "spot"),
        ("币安人生USDT", "spot", "币安人生", "USDT", "spot"),
        ("ETHBTC", "spot", "ETH", "BTC", "spot"),
        ("BTCUSDT", "um", "BTC", "USDT", "perpetual"),
        ("BTCUSDT_240628", "um", "BTC", "USDT", "delivery"),
        ("CVCUSDT_SETTLED", "um", "CVC", "USDT", "perpetual"),
        ("LITUSDT_SETTLED1", "um", "LIT", "USDT", "perpetual"),
        ("BTCUSD_PERP", "cm", "BTC", "USD", "perpetual"),
        ("FTTUSD_PERP_SETTLED", "cm", "FTT", "USD", "perpetual"),
        ("BNBUSD_PERP", "cm", "BNB", "USD", "perpetual"),
        ("DOTUSD_PERP", "cm", "DOT", "USD", "perpetual"),
        ("BTCUSD_240628", "cm", "BTC", "USD", "delivery"),
        ("XYZ", "spot", "XYZ", "", "spot"),
    ],
)
def test_base_quote_and_contract(
    symbol: str, market: str, base: str, quote: str, contract: str
) -> None:
    found = parse_symbol(symbol, market)
    assert (found.base, found.quote, found.contract) == (base, quote, contract)
    assert found.settled == ("SETTLED" in symbol)


@pytest.mark.parametrize("symbol", ["BTCUPUSDT", "BTCDOWNUSDT", "ETHBULLUSDT", "BNBBEARBUSD"])
def test_leveraged_tokens_are_told(symbol: str) -> None:
    assert parse_symbol(symbol, "spot").leveraged


@pytest.mark.parametrize("symbol", ["JUPUSDT", "SYRUPUSDT", "SUPERUSDT", "BTCUSDT", "UPUSDT"])
def test_coins_whose_name_ends_alike_are_no_leveraged_tokens(symbol: str) -> None:
    assert not parse_symbol(symbol, "spot").leveraged


@pytest.mark.parametrize(
    ("symbol", "stable"), [("USDCUSDT", True), ("FDUSDUSDT", True), ("BTCUSDT", False), ("EURUSDT", False)]
)  # fmt: skip
def test_pairs_of_two_stable_coins_are_told(symbol: str, stable: bool) -> None:
    assert parse_symbol(symbol, "spot").stable_pair == stable
