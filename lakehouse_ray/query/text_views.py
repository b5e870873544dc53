"""Texts of a dictionary as Arrow's views, which is how Polars keeps texts.

A view is 16 bytes: a length, and the text or where it is. So a column of few different texts is made by
copying views, and Polars takes it as it is; from texts one after the other it would make each view anew.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

VIEW = pa.string_view()
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_BYTES = np.dtype("V16")


def as_views(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same texts. column: Of texts, or of dictionaries of them."""
    if not pa.types.is_dictionary(column.type):
        return column.cast(VIEW)
    return pa.chunked_array([_views(chunk) for chunk in column.chunks], VIEW)


def repeated(value: str, count: int) -> pa.DictionaryArray:
    """A text so many times, as a dictionary of one."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def _views(chunk: pa.DictionaryArray) -> pa.Array:
    different = chunk.dictionary.cast(VIEW)
    if not len(different) or different.null_count:
        return chunk.cast(pa.string()).cast(VIEW)
    _, views, *texts = different.buffers()
    every = np.frombuffer(views, _BYTES)[different.offset : different.offset + len(different)]
    indices, validity = chunk.indices, None
    if indices.null_count:
        known = indices.is_valid().to_numpy(zero_copy_only=False)
        validity = pa.py_buffer(np.packbits(known, bitorder="little"))
        indices = indices.fill_null(0)
    taken = pa.py_buffer(every.take(indices.to_numpy()))
    return pa.Array.from_buffers(VIEW, len(chunk), [validity, taken, *texts])
