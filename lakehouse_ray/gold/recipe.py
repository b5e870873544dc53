"""How a product is plugged in: its declaration, and a function from its inputs to its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from lakehouse_ray.model.product import Parameter, Product, ProductUnit


class Inputs(Protocol):
    """What a unit is made from. Columns are those of the declaration, types those of the tables.

    Rows are those of the unit's market (and interval and symbol, as declared) whose time lies in
    the unit's period and what is declared around it, in the table's order. No rows are an empty
    frame with its columns.
    """

    def frame(self, name: str) -> pl.DataFrame:
        """All rows of an input, whatever it takes."""

    def pieces(self, name: str) -> Iterator[pl.DataFrame]:
        """The rows of one symbol, a bounded number at a time, in the order of time."""

    def symbols(self, name: str) -> Iterator[tuple[str, pl.DataFrame]]:
        """Each symbol of a `whole_market` input with its rows, one at a time, sorted by name."""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Those of the product."""


# Returns the unit's rows in any order. `market`, and the unit's `symbol` and `interval`, may be
# left away; rows whose time is outside of the unit's period (made while warming up) are dropped.
# Pure: the same unit and inputs give the same rows. It may be called several times.
Derive = Callable[[ProductUnit, Inputs], pl.DataFrame]


@dataclass(frozen=True)
class Recipe:
    """A product that can be built. Pickles, if `derive` is a function of a module."""

    product: Product
    derive: Derive
