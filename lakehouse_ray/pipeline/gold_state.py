"""What a build sees: one snapshot of each input, the product's own table, and its log."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.gold.log import read_builds
from lakehouse_ray.gold.plan import BuildScope, Output, ProductPlan, plan_product
from lakehouse_ray.model.product import Input, Product
from lakehouse_ray.model.table import Table
from lakehouse_ray.query.pins import pin_tables
from lakehouse_ray.storage.files import FileIndex, index_files
from lakehouse_ray.storage.groups import Footers, RowGroup


class BuildState:
    """Tables as a build sees them.

    A product's own table is looked at before its inputs are pinned. Whatever another run commits
    to it later is in the way of the commit; whatever is there by then was built from inputs no
    newer than ours. So rows are only ever replaced by rows of newer inputs, or of the same.
    """

    def __init__(
        self, writer: Writer, scope: BuildScope, products: Sequence[Product], *, rebuild: bool
    ) -> None:
        self._writer = writer
        self._scope = scope
        self._rebuild = rebuild
        self._footers = Footers(writer.store, tolerant=True)
        self._files = {product.name: self._look(product) for product in products}
        tables = {t.name: t for p in products for item in p.inputs for t in item.tables("")}
        self._pins = pin_tables(writer.catalog.find, tables.values())

    def plan(self, product: Product) -> ProductPlan:
        """Say what of a product has to be built, from the tables as they are pinned."""
        files = self._files[product.name]
        output = Output(files, tuple(self._groups(product.table, files)))
        inputs = {item.name: self._held(item) for item in product.inputs}
        log = read_builds(self._writer.catalog, product)
        return plan_product(product, self._scope, inputs, output, log, rebuild=self._rebuild)

    def written(self, product: Product) -> None:
        """See what is in a product's table now, where others read it."""
        if product.table.name in self._pins:
            self._pins |= pin_tables(self._writer.catalog.find, [product.table])

    def renew(self, product: Product) -> None:
        """See everything as it is now, since another run has written to this product's table.

        Units that this run has built are current then, whatever it was asked for.
        """
        self._rebuild = False
        self._files[product.name] = self._look(product)
        shapes = [pin.shape for pin in self._pins.values()]
        self._pins = pin_tables(self._writer.catalog.find, shapes)

    def _look(self, product: Product) -> FileIndex:
        return index_files(product.table, self._writer.catalog.find(product.table.name))

    def _held(self, item: Input) -> list[RowGroup]:
        found: list[RowGroup] = []
        for table in item.tables(""):
            pin = self._pins[table.name]
            if pin.table is not None and pin.snapshot_id is not None:
                found += self._groups(table, index_files(table, pin.table, pin.snapshot_id))
        return found

    def _groups(self, table: Table, files: FileIndex) -> list[RowGroup]:
        """Row groups of the markets that are asked for: footers of others are not read."""
        place = [partition.column for partition in table.partitions].index("market")
        markets = self._scope.markets
        return self._footers.groups(
            table,
            [e for e in files if not markets or e.region.partition[place] in markets],
        )
