"""Who of several processes, on whatever machines, does what only one may do.

The lease stands in the properties of a table: its number (`epoch`), its holder, and a count that the
holder raises. Each change is one commit that the catalog takes only if nobody else has changed them.
Whoever sees the count stand still for as long as a lease lasts, by its own steady clock, takes the
next one. Clocks of different machines are never compared.

A lease says who ought to act; that nobody else did is made sure by what is written under it: each
row of the log carries its number and is added only to what its writer has seen (`event_log`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import SetPropertiesUpdate, ValidatableTableRequirement
from sqlalchemy.exc import SQLAlchemyError

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.catalog import TableCatalog, explain_catalog
from lakehouse_ray.storage.objects import explain

_EPOCH, _HOLDER, _BEAT = "lakehouse.epoch", "lakehouse.holder", "lakehouse.beat"
# The holder says that it lives so many times in the time of a lease …
_BEATS = 4
# … and stops acting before anybody may take over.
_TRUSTED_SHARE = 0.6


@dataclass(frozen=True)
class LeaseState:
    """epoch: 0: nobody has ever held it. holder: Empty: it was given back."""

    epoch: int = 0
    holder: str = ""
    beat: int = 0


class _Unchanged(ValidatableTableRequirement):
    """The lease is as it was read."""

    type: Literal["assert-lease"] = "assert-lease"
    epoch: int
    holder: str
    beat: int

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]
        found = _state_of(base_metadata) if base_metadata is not None else LeaseState()
        if found != LeaseState(self.epoch, self.holder, self.beat):
            raise CommitFailedException("somebody else has changed the lease")


def _state_of(metadata: TableMetadata) -> LeaseState:
    told = metadata.properties
    return LeaseState(
        int(told.get(_EPOCH, "0")), str(told.get(_HOLDER, "")), int(told.get(_BEAT, "0"))
    )


class Lease:
    """A lease as one process sees it. Not safe for several threads.

    lease_s: After so long without a sign of its holder anybody may take it; the same for all.
    """

    def __init__(
        self, catalog: TableCatalog, table: Table, name: str, lease_s: float, clock: Clock
    ) -> None:
        self._catalog = catalog
        self._table = table
        self._name = name
        self._lease_s = lease_s
        self._clock = clock
        self._watched: tuple[LeaseState, float] | None = None
        self._epoch: int | None = None
        self._trusted_until_s = 0.0

    @property
    def beat_s(self) -> float:
        """Time between two calls of `keep`."""
        return self._lease_s / _BEATS

    @property
    def epoch(self) -> int | None:
        """Of the lease that this process holds; None: none, or it is too long since it said so."""
        trusted = self._clock.monotonic_s() < self._trusted_until_s
        return self._epoch if trusted else None

    def state(self) -> LeaseState:
        """As it stands in the lake. Raises LakehouseError where the catalog does not answer."""
        found = self._catalog.find(self._table.name)
        return LeaseState() if found is None else _state_of(found.metadata)

    def keep(self) -> bool:
        """Renew the lease, or take it where it is free. Returns whether this process has it.

        Raises LakehouseError where the catalog does not answer: then it is had until `epoch` is None.
        """
        began_s = self._clock.monotonic_s()
        table = self._catalog.open(self._table)
        state = _state_of(table.metadata)
        if self._epoch is not None and (state.epoch, state.holder) != (self._epoch, self._name):
            self._epoch = None
        if self._epoch is None and not self._is_free(state, began_s):
            return False
        mine = LeaseState(
            self._epoch if self._epoch is not None else state.epoch + 1, self._name, state.beat + 1
        )
        if not self._change(table, state, mine):
            return False
        self._epoch = mine.epoch
        self._trusted_until_s = began_s + self._lease_s * _TRUSTED_SHARE
        return True

    def give_back(self) -> None:
        """Let others take it at once."""
        if self._epoch is None:
            return
        table = self._catalog.open(self._table)
        state = _state_of(table.metadata)
        if (state.epoch, state.holder) == (self._epoch, self._name):
            self._change(table, state, LeaseState(state.epoch, "", state.beat + 1))
        self._epoch = None

    def _is_free(self, state: LeaseState, now_s: float) -> bool:
        if not state.holder:
            return True
        if self._watched is None or self._watched[0] != state:
            self._watched = state, now_s
        return now_s - self._watched[1] >= self._lease_s

    def _change(self, table: IcebergTable, before: LeaseState, after: LeaseState) -> bool:
        told = {_EPOCH: str(after.epoch), _HOLDER: after.holder, _BEAT: str(after.beat)}
        unchanged = _Unchanged(epoch=before.epoch, holder=before.holder, beat=before.beat)
        try:
            # Table.transaction would set properties whatever they are by now.
            table._do_commit((SetPropertiesUpdate(updates=told),), (unchanged,))  # type: ignore[arg-type]
        except (CommitFailedException, CommitStateUnknownException):
            return False
        except SQLAlchemyError as error:
            raise explain_catalog(error, f"keeping {self._table.name}") from error
        except OSError as error:
            raise explain(error, f"keeping {self._table.name}") from error
        return True


class LeaseKeeper:
    """Keeps a lease from a thread of its own, so that long work does not lose it."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self.error: LakehouseError | None = None

    def start(self) -> None:
        self._thread.start()

    @property
    def epoch(self) -> int | None:
        return self._lease.epoch

    def stop(self) -> None:
        """Give the lease back. Raises LakehouseError where the catalog does not answer."""
        self._over.set()
        self._thread.join()
        self._lease.give_back()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._lease.keep()
                self.error = None
            except LakehouseError as error:
                self.error = error
            self._over.wait(self._lease.beat_s)
