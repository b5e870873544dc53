"""All products that can be built, in the order of their declarations, and what each needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.gold.bars import derive_klines, derive_resampled
from lakehouse_ray.gold.daily import derive_daily
from lakehouse_ray.gold.recipe import Derive, Recipe
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.table import Table

_DERIVE: Mapping[str, Derive] = {
    "daily": derive_daily,
    "klines_fine": derive_klines,
    "klines_coarse": derive_klines,
    "resampled_klines_fine": derive_resampled,
    "resampled_klines_coarse": derive_resampled,
}

RECIPES: dict[str, Recipe] = {
    name: Recipe(product, _DERIVE[name]) for name, product in PRODUCTS.items()
}


def in_order(recipes: Iterable[Recipe], wanted: Iterable[str] = ()) -> list[Recipe]:
    """Return recipes so that each comes after those whose tables it reads.

    wanted: Names of products; they and what they are made from are returned. Empty: all.

    Raises InvalidError where products are made from each other.
    """
    by_table = {recipe.product.table.name: recipe for recipe in recipes}
    by_name = {recipe.product.name: recipe for recipe in by_table.values()}
    found: list[Recipe] = []
    entered: list[str] = []

    def visit(recipe: Recipe) -> None:
        name = recipe.product.name
        if recipe in found:
            return
        if name in entered:
            raise InvalidError(f"products are made from each other: {', '.join(entered)}")
        entered.append(name)
        for item in recipe.product.inputs:
            if isinstance(item.source, Table) and item.source.name in by_table:
                visit(by_table[item.source.name])
        entered.remove(name)
        found.append(recipe)

    for name in wanted or by_name:
        visit(by_name[name])
    return found
