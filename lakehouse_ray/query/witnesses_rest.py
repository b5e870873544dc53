"""What answers of REST, as bronze keeps them, said of a moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from lakehouse_ray.errors import BadDataError, LakehouseError
from lakehouse_ray.model.fills import RawAnswer
from lakehouse_ray.model.timespan import TimeRange, format_time
from lakehouse_ray.storage.answers import open_pack
from lakehouse_ray.storage.objects import ObjectStore

# Of one moment, so many records are shown.
_SHOWN_MAX = 20
# Where a record tells its time: a bar's first cell; of trades, payments and samples.
_TIMES = ("T", "time", "fundingTime", "timestamp")
_MICROSECONDS_FROM = 10**15


def answers_of(
    store: ObjectStore, row: Mapping[str, Any], interval: str | None, span: TimeRange
) -> dict[str, Any]:
    """Return `answers`: the records of a series' answers whose time is in `span`, each with the
    request it answered and when; or why they cannot be read.

    row: Of `bronze.objects`.
    """
    found: list[dict[str, Any]] = []
    try:
        for kept in open_pack(store, row["path"], row["sha256"]):
            if (kept.fill.symbol, kept.fill.interval) != (row["symbol"], interval):
                continue
            for raw in kept.answers:
                found += (
                    {
                        "url": raw.url,
                        "received_at": format_time(raw.received_us),
                        "record": orjson.dumps(record).decode(),
                    }
                    for record in _records(raw, span)
                )
    except BadDataError as error:
        return {"unreadable": str(error)}
    except LakehouseError as error:
        return {"unreadable": f"bronze has lost it: {error}"}
    return {"answers": found[:_SHOWN_MAX]}


def _records(raw: RawAnswer, span: TimeRange) -> Iterator[Any]:
    items = orjson.loads(raw.body)
    for item in items if isinstance(items, list) else ():
        if isinstance(item, list):
            time = item[0] if item else None
        elif isinstance(item, dict):
            time = next((item[name] for name in _TIMES if name in item), None)
        else:
            time = None
        if not isinstance(time, int):
            continue
        micro = time if time >= _MICROSECONDS_FROM else time * 1000
        if span.start_us <= micro < span.end_us:
            yield item
