"""An object as a bucket's listing gives it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator, Field

from lakehouse_ray.model.records.base import Record


def _unquoted(value: object) -> object:
    return value.strip('"') if isinstance(value, str) else value


class ListedObject(Record):
    """One `Contents` of a ListBucketResult, validated from its cells, which are text.

    size: In bytes; the archive has nothing near the bound.
    etag: Without its quotes; empty where the listing gives none.
    """

    key: Annotated[str, Field(alias="Key", min_length=1, max_length=1024)]
    size: Annotated[int, Field(alias="Size", strict=False, ge=0, lt=1 << 50)]
    etag: Annotated[str, BeforeValidator(_unquoted)] = Field(default="", alias="ETag")
    last_modified: Annotated[AwareDatetime, Field(alias="LastModified", strict=False)]
