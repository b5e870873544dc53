"""Versions of tables as one text, and tables as they were at them.

`silver.klines_coarse@-,silver.klines_fine@7352114` says exactly what a read saw. Asked for again it
gives the same rows, whatever was committed meanwhile, until these snapshots expire.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.table import Table
from lakehouse_ray.query.pins import AsOf, FindTable, pin_tables

# By table; None: it had no rows yet.
Versions = Mapping[str, int | None]

_ONE = re.compile(r"([a-z_]{1,20}\.[a-z_0-9]{1,60})@(-|[0-9]{1,19})", re.ASCII)


class ExpiredError(NotFoundError):
    """The snapshot was there, or may have been, and is not kept any more."""


def spell_versions(versions: Versions) -> str:
    return ",".join(
        f"{name}@{'-' if snapshot is None else snapshot}"
        for name, snapshot in sorted(versions.items())
    )


def parse_versions(text: str) -> dict[str, int | None] | None:
    """Return what `spell_versions` was given; None where the text is no such thing."""
    if "@" not in text:
        return None
    found: dict[str, int | None] = {}
    for part in text.split(","):
        match = _ONE.fullmatch(part.strip())
        if match is None or match[1] in found:
            raise InvalidError(
                f"not versions of tables: {text[:200]!r}",
                "give them as an answer's header Lakehouse-Snapshots has them",
            )
        found[match[1]] = None if match[2] == "-" else int(match[2])
    return found


class FixedTables:
    """Some tables at one version each. `find` gives them as if nothing had been committed since."""

    def __init__(self, find: FindTable, shapes: Iterable[Table], as_of: AsOf = None) -> None:
        """as_of: A moment as everywhere, or a text of `spell_versions` with all of these tables.

        Raises ExpiredError for a snapshot that is not kept any more, InvalidError for versions of
        other tables.
        """
        shapes = {shape.name: shape for shape in shapes}.values()
        if isinstance(as_of, str) and not as_of.isascii():
            raise InvalidError(f"not a version: {as_of[:100]!r}", "an ISO time, or a snapshot's id")
        exact = parse_versions(as_of) if isinstance(as_of, str) else None
        self.exact = exact is not None
        if exact is None:
            pins = pin_tables(find, shapes, as_of)
            self.versions = {name: pin.snapshot_id for name, pin in pins.items()}
            tables = {name: pin.table for name, pin in pins.items()}
        else:
            # Versions that were told before there were live rows say nothing of these.
            told: dict[str, int | None] = {shape.name: None for shape in shapes if shape.live}
            exact = told | exact
            missing = [shape.name for shape in shapes if shape.name not in exact]
            if missing:
                raise InvalidError(
                    f"these versions say nothing of {', '.join(missing)}",
                    "versions are of the tables of one question: take those of the same one",
                )
            self.versions = {shape.name: exact[shape.name] for shape in shapes}
            tables = {shape.name: find(shape.name) for shape in shapes}
        self._tables = {
            name: _as_it_was(name, tables[name], snapshot)
            for name, snapshot in self.versions.items()
        }

    def find(self, name: str) -> IcebergTable | None:
        return self._tables[name]

    def identities(self) -> list[str]:
        """What tells these tables from those of any other lake, by name."""
        named = sorted(self._tables.items())
        return ["-" if table is None else str(table.metadata.table_uuid) for _, table in named]


def _as_it_was(
    name: str, table: IcebergTable | None, snapshot_id: int | None
) -> IcebergTable | None:
    """The table with that snapshot as its current one; None: it had no rows."""
    if snapshot_id is None:
        return None
    if table is None or table.snapshot_by_id(snapshot_id) is None:
        raise ExpiredError(
            f"{name} has no snapshot {snapshot_id}, or has it no longer",
            "ask anew, without a cursor or an older version",
        )
    if table.metadata.current_snapshot_id == snapshot_id:
        return table
    metadata = table.metadata.model_copy(update={"current_snapshot_id": snapshot_id})
    return IcebergTable(table.name(), metadata, table.metadata_location, table.io, table.catalog)
