"""All products, by name."""

from __future__ import annotations

import difflib

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.product import Product
from lakehouse_ray.model.products.daily import DAILY

PRODUCTS: dict[str, Product] = {product.name: product for product in (DAILY,)}


def find_product(name: str) -> Product:
    """Return the product of that name; its table's name will do as well."""
    for product in PRODUCTS.values():
        if name in (product.name, product.table.name):
            return product
    near = difflib.get_close_matches(name, PRODUCTS, n=1, cutoff=0.5)
    raise InvalidError(
        f"unknown product {name!r}",
        f"did you mean {near[0]}?" if near else f"one of {', '.join(PRODUCTS)}",
    )
