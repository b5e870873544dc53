"""What an indicator is: a declaration, from which names, checks and documentation are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.rows import Line, Rows

# Longest window: what is remembered of a series is about as long.
PERIOD_MAX = 100_000

Number = int | float


@dataclass(frozen=True)
class Parameter:
    """A number in an indicator's name.

    default: None where the indicator means something else without it.
    whole: Whether it counts bars.
    """

    name: str
    default: Number | None
    least: Number = 1
    most: Number = PERIOD_MAX
    whole: bool = True

    def parse(self, text: str, indicator: str) -> Number:
        """Raises InvalidError for what is no number within the bounds."""
        try:
            value: Number = int(text) if self.whole else float(text)
        except ValueError:
            kind = "a whole number" if self.whole else "a number"
            raise InvalidError(
                f"{self.name} of {indicator} is {kind}, not {text!r}",
                f"{self.least} to {self.most:,}",
            ) from None
        if not self.least <= value <= self.most:
            raise InvalidError(
                f"{self.name} of {indicator} cannot be {text}", f"{self.least} to {self.most:,}"
            )
        return value


def spelled(value: Number) -> str:
    """A number as names have it: 2, not 2.0."""
    return str(int(value)) if value == int(value) else repr(value)


@dataclass(frozen=True)
class Indicator:
    """One indicator; everything that is said of it, and how it is computed.

    name: What people ask for, before its parameters: `sma` of `sma_20`.
    columns: Of the input.
    outputs: Columns it gives, before the parameters: `bb_upper` of `bb_upper_20_2`.
    work: Given rows and the parameters, returns a line per output.
    first: Age in its segment of the first bar with a value, in the parameters (`slow - 1`).
    seed: How what is recursive begins; empty where nothing is.
    ddof: Degrees of freedom taken off, where a variance is computed.
    flat: What it gives where prices do not move, or nothing is traded.
    source: The function of TA-Lib with the same values.
    rising: Parameters of which each must be larger than the one before.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    outputs: tuple[str, ...]
    work: Callable[..., tuple[Line, ...]]
    formula: str
    first: str
    flat: str
    source: str
    seed: str = ""
    ddof: int | None = None
    rising: tuple[str, ...] = ()

    @property
    def default(self) -> Request:
        """It with default parameters."""
        return Request(self, tuple(parameter.default for parameter in self.parameters))


@dataclass(frozen=True)
class Request:
    """An indicator with its parameters."""

    indicator: Indicator
    values: tuple[Number | None, ...]

    @property
    def name(self) -> str:
        return self.indicator.name + self._suffix

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(output + self._suffix for output in self.indicator.outputs)

    @property
    def _suffix(self) -> str:
        return "".join(f"_{spelled(value)}" for value in self.values if value is not None)

    def lines(self, rows: Rows) -> tuple[Line, ...]:
        return self.indicator.work(rows, *self.values)
