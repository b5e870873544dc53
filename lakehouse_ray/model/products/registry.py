"""All products, by name."""

from __future__ import annotations

import difflib

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.gold import UNIONS
from lakehouse_ray.model.product import Product
from lakehouse_ray.model.products.daily import DAILY
from lakehouse_ray.model.products.klines import (
    GOLD_KLINES_COARSE,
    GOLD_KLINES_FINE,
    RESAMPLED_KLINES_COARSE,
    RESAMPLED_KLINES_FINE,
)

PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        DAILY,
        GOLD_KLINES_FINE,
        GOLD_KLINES_COARSE,
        RESAMPLED_KLINES_FINE,
        RESAMPLED_KLINES_COARSE,
    )
}


def find_products(name: str) -> list[Product]:
    """Return the products of that name: its table's, or that of the view they are parts of.

    Raises InvalidError where there is none.
    """
    wanted = name if name.startswith("gold.") else f"gold.{name}"
    tables = UNIONS.get(wanted, ())
    found = [p for p in PRODUCTS.values() if p.table.name == wanted or p.table in tables]
    if found:
        return found
    names = [*PRODUCTS, *(view.removeprefix("gold.") for view in UNIONS)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    raise InvalidError(
        f"unknown product {name!r}",
        f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}",
    )
