"""Records of a spool in columns: a hundred thousand of them are four arrays and one piece of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FRAME, MARK = 0, 1


class Record(NamedTuple):
    """kind: FRAME, bytes as received; or MARK, a text about the connection."""

    received_us: int
    connection: int
    kind: int
    data: bytes


class Records(Sequence[Record]):
    """Records in their order.

    received_us: int64. connection: uint32. kind: uint8. data: Their bytes, one behind the other.
    ends: int64; where each ends in `data`; it begins where the one before ends.
    """

    def __init__(
        self,
        received_us: npt.NDArray[np.int64],
        connection: npt.NDArray[np.uint32],
        kind: npt.NDArray[np.uint8],
        ends: npt.NDArray[np.int64],
        data: bytes,
    ) -> None:
        assert len(received_us) == len(connection) == len(kind) == len(ends)
        assert (int(ends[-1]) if len(ends) else 0) == len(data)
        self.received_us = received_us
        self.connection = connection
        self.kind = kind
        self._ends = ends
        self._data = data

    @classmethod
    def of(cls, records: Iterable[Record]) -> Records:
        if isinstance(records, cls):
            return records
        given = list(records)
        return cls(
            np.array([record.received_us for record in given], np.int64),
            np.array([record.connection for record in given], np.uint32),
            np.array([record.kind for record in given], np.uint8),
            np.cumsum([len(record.data) for record in given], dtype=np.int64),
            b"".join([record.data for record in given]),
        )

    def __add__(self, other: Records) -> Records:
        if not len(self) or not len(other):
            return other if len(other) else self
        return Records(
            np.concatenate((self.received_us, other.received_us)),
            np.concatenate((self.connection, other.connection)),
            np.concatenate((self.kind, other.kind)),
            np.concatenate((self._ends, other._ends + len(self._data))),
            self._data + other._data,
        )

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        at = range(len(self))[place]
        start = int(self._ends[at - 1]) if at else 0
        return Record(
            int(self.received_us[at]),
            int(self.connection[at]),
            int(self.kind[at]),
            self._data[start : int(self._ends[at])],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def data_of(
        self, places: npt.NDArray[np.int64], skip: npt.NDArray[np.int64], drop: int
    ) -> list[bytes]:
        """The bytes of some of them, each without so many at its beginning, and at its end."""
        data = self._data
        starts = np.where(places > 0, self._ends[places - 1], 0) + skip
        ends = self._ends[places] - drop
        return [data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    @property
    def frames(self) -> pa.LargeBinaryArray:
        """The bytes of each, not copied."""
        offsets = np.concatenate((np.zeros(1, np.int64), self._ends))
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self._data)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers)
