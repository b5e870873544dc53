"""All indicators, and how their names are read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.averages import AVERAGES
from lakehouse_ray.kernels.indicators.bands import BANDS
from lakehouse_ray.kernels.indicators.declaration import Indicator, Request
from lakehouse_ray.kernels.indicators.momentum import MOMENTUM
from lakehouse_ray.kernels.indicators.oscillators import OSCILLATORS
from lakehouse_ray.kernels.indicators.statistics import STATISTICS
from lakehouse_ray.kernels.indicators.trend import TREND
from lakehouse_ray.kernels.indicators.volume import VOLUME

FAMILIES: Mapping[str, tuple[Indicator, ...]] = MappingProxyType(
    {
        "Averages": AVERAGES,
        "Ranges and bands": BANDS,
        "Momentum": MOMENTUM,
        "Oscillators": OSCILLATORS,
        "Trend": TREND,
        "Volume": VOLUME,
        "Statistics": STATISTICS,
    }
)
INDICATORS: Mapping[str, Indicator] = MappingProxyType(
    {indicator.name: indicator for family in FAMILIES.values() for indicator in family}
)


def parse_names(names: str | Iterable[str]) -> tuple[Request, ...]:
    """Read names such as `sma_20`, each once, in their order.

    names: Several, or one text with commas.

    Raises InvalidError for an unknown name, and for parameters that cannot be.
    """
    listed = names.split(",") if isinstance(names, str) else names
    requests = [parse_name(name) for name in listed if name.strip()]
    if not requests:
        raise InvalidError("no indicator is named", "such as sma_20,rsi_14")
    return tuple(dict.fromkeys(requests))


def parse_name(text: str) -> Request:
    """Read one name: `rsi` has default parameters, `macd_8` the default ones after the first."""
    spelled = text.strip().lower()
    # The longest name that it begins with: linreg_slope_14 is no linreg.
    words = spelled.split("_")
    for count in range(len(words), 0, -1):
        indicator = INDICATORS.get("_".join(words[:count]))
        if indicator is not None:
            return _with_parameters(indicator, words[count:], spelled)
    raise _unknown(spelled)


def _with_parameters(indicator: Indicator, given: list[str], spelled: str) -> Request:
    wanted = indicator.parameters
    if len(given) > len(wanted):
        takes = ", ".join(parameter.name for parameter in wanted) or "none"
        raise InvalidError(
            f"{spelled!r} has {len(given)} parameters; {indicator.name} takes {takes}",
            f"such as {indicator.default.name}",
        )
    values = [
        parameter.parse(given[place], indicator.name) if place < len(given) else parameter.default
        for place, parameter in enumerate(wanted)
    ]
    by_name = {parameter.name: value for parameter, value in zip(wanted, values, strict=True)}
    for smaller, larger in pairwise(indicator.rising):
        if not by_name[smaller] < by_name[larger]:  # type: ignore[operator]
            raise InvalidError(
                f"{smaller} must be smaller than {larger} in {spelled!r}",
                f"such as {indicator.default.name}",
            )
    return Request(indicator, tuple(values))


def _unknown(spelled: str) -> InvalidError:
    bare = spelled.rstrip("_.0123456789")
    numbers = spelled[len(bare) :]
    near = difflib.get_close_matches(bare, INDICATORS, n=3, cutoff=0.6)
    outputs = {output: i.name for i in INDICATORS.values() for output in i.outputs}
    if bare in outputs:
        near = [outputs[bare]]
    if near:
        hint = f"did you mean {' or '.join(name + numbers for name in near)}?"
    else:
        hint = f"one of {', '.join(sorted(INDICATORS))}"
    return InvalidError(f"unknown indicator {spelled!r}", hint)
