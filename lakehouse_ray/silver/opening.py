"""From objects held in memory to their CSV, or to the reason why one cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.work import ObjectResult, RawObject, Unit
from lakehouse_ray.silver.quarantine import Refusals
from lakehouse_ray.sources.source import Csv, ObjectDecoder

# Objects that could be read, with their CSV, and the results of the rest.
Opened = tuple[list[tuple[ObjectResult, Csv]], list[ObjectResult]]


def open_objects(
    decoder: ObjectDecoder,
    dataset: Dataset,
    unit: Unit,
    items: Sequence[RawObject],
    refusals: Refusals,
    room_bytes: int,
) -> Opened | None:
    """Inflate objects held in memory; None, and nothing refused, where they have no room."""
    opened: list[tuple[ObjectResult, Csv]] = []
    closed: list[ObjectResult] = []
    for item in items:
        result = item.result
        if item.data is None:
            closed.append(result)
            continue
        try:
            csv = decoder.unpack(result.task.key, item.data, room_bytes)
            if csv is None:
                return None
            room_bytes -= len(csv)
            decoder.check(dataset, unit.market, result.task.key, csv)
        except BadDataError as error:
            result = replace(result, state="quarantined", reason=error.reason, detail=error.detail)
            closed.append(result)
            continue
        opened.append((replace(result, csv_bytes=len(csv)), csv))
    for result in closed:
        if result.state == "quarantined":
            refusals.refuse_object(result)
    return opened, closed
