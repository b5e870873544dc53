"""What is known of a store's files, kept from question to question."""

from __future__ import annotations

from lakehouse_ray.storage.footers import KeptFooters
from lakehouse_ray.storage.manifests import Manifests
from lakehouse_ray.storage.objects import ObjectStore


class KeptFiles:
    """Manifests and footers, each bounded. For several threads."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.manifests = Manifests()
        self.footers = KeptFooters(store)

    def place(self, path: str) -> str:
        """From a file's name in a table to where it is in the store's file system."""
        return self.store.locate(path.removeprefix("file://").removeprefix(f"{self.store.root}/"))
