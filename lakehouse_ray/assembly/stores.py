"""From settings to how store and catalog are reached; for who reads and who writes."""

from __future__ import annotations

from lakehouse_ray.settings import Settings
from lakehouse_ray.storage.catalog import CatalogAccess
from lakehouse_ray.storage.objects import S3Access


def s3_access(settings: Settings) -> S3Access:
    s3 = settings.storage.s3
    return S3Access(
        s3.endpoint_url, s3.region, s3.access_key_id, s3.secret_access_key.get_secret_value()
    )


def catalog_access(settings: Settings) -> CatalogAccess:
    return CatalogAccess(
        settings.catalog_uri, settings.storage_root, s3_access(settings).iceberg_properties()
    )
