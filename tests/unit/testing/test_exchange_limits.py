"""What an address may ask: weights by the minute, counts by five minutes, bans."""

from __future__ import annotations

import json

from lakehouse_ray.testing.exchange.api.limits import Meter, RateLimits
from lakehouse_ray.testing.exchange.api.routes import routes

# 2024-02-29T12:34:30Z
NOW_MS = 1_709_210_070_000
MINUTE = 60_000


def meter(**options: object) -> Meter:
    return Meter(RateLimits(weight_per_minute={"spot": 100, "um": 50, "cm": 50}, **options))  # type: ignore[arg-type]


def test_weights_add_up_until_the_minute_of_the_clock_ends() -> None:
    counted = meter()
    used = [
        counted.admit("spot", "a", weight, None, NOW_MS + after).used_weight
        for weight, after in ((10, 0), (20, 29_999), (1, 30_000), (2, 31_000))
    ]
    assert used == [10, 30, 1, 3]
    assert counted.told()["spot"]["windows"] == {
        str(NOW_MS - 30_000): 30,
        str(NOW_MS + 30_000): 3,
    }


def test_markets_and_addresses_count_apart() -> None:
    counted = meter()
    for market, address in (("spot", "a"), ("um", "a"), ("spot", "b")):
        assert counted.admit(market, address, 40, None, NOW_MS).used_weight == 40


def test_the_limit_itself_is_let_in_and_more_is_told_to_wait_for_the_next_minute() -> None:
    counted = meter()
    assert counted.admit("spot", "a", 100, None, NOW_MS).refusal is None
    refused = counted.admit("spot", "a", 1, None, NOW_MS)
    assert refused.refusal is not None
    assert (refused.refusal.status, refused.retry_after_s, refused.used_weight) == (429, 30, 101)
    assert json.loads(refused.refusal.body) == {
        "code": -1003,
        "msg": "Too much request weight used; current limit is 100 request weight per 1 MINUTE. "
        "Please use WebSocket Streams for live updates to avoid polling the API.",
    }
    assert counted.admit("spot", "a", 1, None, NOW_MS + 30_000).refusal is None


def test_going_on_after_refusals_is_a_ban_that_says_until_when_and_grows() -> None:
    counted = meter(refused_max=2, ban_s=120)
    statuses = []
    for _ in range(4):
        told = counted.admit("um", "a", 50, None, NOW_MS)
        statuses.append(told.refusal.status if told.refusal else 200)
    assert statuses == [200, 429, 429, 418]
    until_ms = NOW_MS + 120_000
    during = counted.admit("um", "a", 1, None, until_ms - 1)
    assert during.refusal is not None
    assert (during.refusal.status, during.retry_after_s) == (418, 1)
    assert f"IP banned until {until_ms}." in during.refusal.message
    assert counted.admit("um", "b", 1, None, until_ms - 1).refusal is None
    assert counted.admit("um", "a", 1, None, until_ms).refusal is None
    assert [counted.told()["um"][name] for name in ("refused", "while_banned", "bans")] == [3, 1, 1]
    for _ in range(4):
        told = counted.admit("um", "a", 50, None, until_ms)
    assert told.refusal is not None
    assert f"IP banned until {until_ms + 240_000}." in told.refusal.message


def test_what_is_asked_before_the_end_of_a_wait_is_too_soon() -> None:
    counted = meter()
    for after, weight in ((0, 51), (29_000, 1), (30_000, 1)):
        counted.admit("um", "a", weight, None, NOW_MS + after)
    counted.hush("um", "a", NOW_MS + 40_000, 5)
    for after in (44_999, 45_000):
        counted.admit("um", "a", 1, None, NOW_MS + after)
    told = counted.told()["um"]
    assert [told[name] for name in ("requests", "refused", "too_soon")] == [5, 2, 2]


def test_some_routes_have_a_count_of_their_own_for_five_minutes() -> None:
    counted = meter(counted={"funding": 3})
    for _ in range(3):
        assert counted.admit("um", "a", 0, "funding", NOW_MS).refusal is None
    refused = counted.admit("um", "a", 0, "funding", NOW_MS)
    # 12:34:30 to 12:35:00.
    assert (refused.refusal is not None, refused.retry_after_s) == (True, 30)
    assert counted.admit("um", "a", 1, None, NOW_MS).refusal is None
    assert counted.admit("um", "a", 0, "funding", NOW_MS + 30_000).refusal is None


def test_a_route_weighs_what_the_exchange_says() -> None:
    every = routes(None)

    def weight(path: str, **query: str) -> int:
        return every[path].weight(query)

    assert weight("api/v3/klines", limit="1000") == 2
    limits = ("1", "99", "100", "499", "500", "1000", "1001", "1500")
    assert [weight("fapi/v1/klines", limit=limit) for limit in limits] == [
        1, 1, 2, 2, 5, 5, 10, 10,
    ]  # fmt: skip
    assert weight("dapi/v1/markPriceKlines") == 5
    assert weight("fapi/v1/aggTrades") == 20
    assert [weight("api/v3/depth", limit=limit) for limit in ("100", "101", "1000", "5000")] == [
        5, 25, 50, 250,
    ]  # fmt: skip
    assert (weight("api/v3/ticker/24hr", symbol="BTCUSDT"), weight("api/v3/ticker/24hr")) == (2, 80)
    assert every["fapi/v1/fundingRate"].counted == "funding"
