"""What Binance allows one address to ask, by market (its REST documentation, "Limits")."""

from __future__ import annotations

from collections.abc import Mapping

from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.budget import WEIGHT, Limit

REQUESTS = "requests"
FUNDING = "funding"
STATISTICS = "statistics"
# Connections of websockets that are opened, or tried.
CONNECTS = "connects"

_FIVE_MINUTES_S = 300.0
# RAW_REQUESTS: spot's exchangeInfo says it; futures count weight alone.
_RAW_REQUESTS_MAX = 61_000
# fundingRate and fundingInfo of USD-M share it.
_FUNDING_REQUESTS_MAX = 500
CONNECTS_MAX = 300
# Routes below /futures/data.
_STATISTICS_REQUESTS_MAX = 1000


def limits_of(
    weights_max: Mapping[Market, int], connects_max: int = CONNECTS_MAX
) -> dict[Market, tuple[Limit, ...]]:
    """All limits of each market. weights_max: Weight a minute. connects_max: In five minutes."""
    connects = Limit(CONNECTS, connects_max, _FIVE_MINUTES_S)
    futures = (
        connects,
        Limit(FUNDING, _FUNDING_REQUESTS_MAX, _FIVE_MINUTES_S),
        Limit(STATISTICS, _STATISTICS_REQUESTS_MAX, _FIVE_MINUTES_S),
    )
    return {
        "spot": (
            Limit(WEIGHT, weights_max["spot"], 60.0),
            Limit(REQUESTS, _RAW_REQUESTS_MAX, _FIVE_MINUTES_S),
            connects,
        ),
        "um": (Limit(WEIGHT, weights_max["um"], 60.0), *futures),
        "cm": (Limit(WEIGHT, weights_max["cm"], 60.0), *futures),
    }
