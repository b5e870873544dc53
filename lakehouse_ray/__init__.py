"""A crypto market-data lakehouse on Ray.

    import lakehouse_ray as lh

    lake = lh.connect()
    bars = lake.klines("BTCUSDT", "1m", "2024-01", "2024-02").collect()

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakehouse_ray.assembly.reader import connect, connect_async
    from lakehouse_ray.errors import (
        BadDataError,
        ConflictError,
        DeniedError,
        InvalidError,
        LakehouseError,
        NotFoundError,
        ResourceError,
        UnavailableError,
        UnreadWarning,
    )
    from lakehouse_ray.query.answered import Answered
    from lakehouse_ray.query.lake import Lake
    from lakehouse_ray.query.lake_frame import LakeFrame, Meta
    from lakehouse_ray.query.live_events import LiveBatch, LiveEvent
    from lakehouse_ray.query.statement import Result
    from lakehouse_ray.remote.asynchronous import AsyncRemoteLake
    from lakehouse_ray.remote.lake import RemoteLake

__all__ = [
    "Answered",
    "AsyncRemoteLake",
    "BadDataError",
    "ConflictError",
    "DeniedError",
    "InvalidError",
    "Lake",
    "LakeFrame",
    "LakehouseError",
    "LiveBatch",
    "LiveEvent",
    "Meta",
    "NotFoundError",
    "RemoteLake",
    "ResourceError",
    "Result",
    "UnavailableError",
    "UnreadWarning",
    "connect",
    "connect_async",
]

_HOMES = {
    "Answered": "lakehouse_ray.query.answered",
    "AsyncRemoteLake": "lakehouse_ray.remote.asynchronous",
    "Lake": "lakehouse_ray.query.lake",
    "LakeFrame": "lakehouse_ray.query.lake_frame",
    "LiveBatch": "lakehouse_ray.query.live_events",
    "LiveEvent": "lakehouse_ray.query.live_events",
    "Meta": "lakehouse_ray.query.lake_frame",
    "RemoteLake": "lakehouse_ray.remote.lake",
    "Result": "lakehouse_ray.query.statement",
    "connect": "lakehouse_ray.assembly.reader",
    "connect_async": "lakehouse_ray.assembly.reader",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "lakehouse_ray.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
