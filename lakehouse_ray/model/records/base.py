"""What all records have in common: records that come in one by one, by REST or from a stream.

The exchange writes decimals as text, times as ms or µs, and adds fields as it likes. A record takes
the fields it knows, typed and within what their type can hold, and bears the column names of its
data set, times in UTC microseconds. Whether a bar makes sense is the business of `model.checks`:
an odd record stays and is marked, as an odd row of a file is.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.timespan import parse_time

# As in files: 10^15 ms is the year 33658, 10^15 µs is September 2001.
_MICROSECONDS_FROM = 10**15
_EARLIEST_US = parse_time("2010")
_LATEST_US = parse_time("2200")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_SHOWN_CHARACTERS_MAX = 300


def _number(value: object) -> float:
    decimal = isinstance(value, str) and _DECIMAL.fullmatch(value)
    if not decimal and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError("not a number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _moment(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("not a time in ms or µs")
    micro = value if value >= _MICROSECONDS_FROM else value * 1000
    if not _EARLIEST_US <= micro < _LATEST_US:
        raise ValueError("not a time between 2010 and 2200, in ms or µs")
    return micro


Number = Annotated[float, BeforeValidator(_number)]
# Zero stands for unknown or removed: it is marked by a rule, and no defect of the record.
Amount = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
# -1 stands for trades that were removed.
Id = Annotated[int, Field(ge=-1)]
# UTC microseconds; in: ms or µs.
Moment = Annotated[int, BeforeValidator(_moment)]
Symbol = Annotated[str, Field(min_length=1, max_length=64)]


class Record(BaseModel):
    """One record. Field names are columns of the data set, aliases are the exchange's."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


R = TypeVar("R", bound=Record)


def read_record(kind: type[R], data: Any) -> R:
    """Return the record, or raise BadDataError (MISSING_FIELD, UNTYPED_CELL) saying which field."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        missing = first["type"] == "missing"
        where = ".".join(map(str, first["loc"])) or kind.__name__
        said = "is missing" if missing else f"is {first['input']!r}: {first['msg']}"
        raise BadDataError(
            "MISSING_FIELD" if missing else "UNTYPED_CELL",
            f"{kind.__name__}: {where} {said}"[:_SHOWN_CHARACTERS_MAX],
        ) from error
