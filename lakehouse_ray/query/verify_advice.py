"""How the rows of a table that is not whole come back, by what the table is made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from lakehouse_ray.model.alerts import ALERT_DELIVERIES
from lakehouse_ray.model.assessment import LOGS
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import BUILD_LOG
from lakehouse_ray.model.live import LIVE_LOGS
from lakehouse_ray.model.products.registry import PRODUCTS

_ASSESSED = {table.name for table in LOGS}
_COMPARED = {table.name for table in LIVE_LOGS}
_INGESTED = {table.name for dataset in DATASETS.values() for table in dataset.tables}
_PRODUCTS = {product.table.name: product.name for product in PRODUCTS.values()}
# Of raw objects that bronze has lost.
FETCH_AGAIN = "`lakehouse repair --from-archive` fetches what the archive has still"
# While the catalog knows it, what it lost is missed, not made again.
_DROP = "take the table out of the catalog"


def remake(table: str) -> str:
    """What makes a table anew."""
    if table in _PRODUCTS:
        return f"{_DROP} and build it anew: `lakehouse build {_PRODUCTS[table]} --rebuild`"
    if table == BUILD_LOG.name:
        return f"{_DROP} and build everything anew: `lakehouse build --rebuild`"
    if table in _ASSESSED:
        return f"{_DROP} and assess everything anew: `lakehouse quality --again`"
    if table == ALERT_DELIVERIES.name:
        return f"{_DROP}: alerts are then sent once more"
    if table in _COMPARED:
        return f"{_DROP}: how right live rows were is then told of later ones alone"
    if table in _INGESTED:
        return "`lakehouse repair --deep`: bronze has the objects that its rows are made from"
    return "move the table's folder and its ledger away and ingest again: bronze has the objects"


def by_remedy(tables: Iterable[str]) -> dict[str, list[str]]:
    """Tables by what makes them anew."""
    found: dict[str, list[str]] = defaultdict(list)
    for table in tables:
        found[remake(table)].append(table)
    return found
