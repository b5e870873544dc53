"""A folder that each test of a file has as it was made, where making it takes long."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


class Restored:
    """Made once. Restored under its own name, since tables tell where their files are."""

    def __init__(self, folder: Path, make: Callable[[Path], object]) -> None:
        self._path, self._kept = folder / "home", folder / "kept"
        make(self._path)
        shutil.copytree(self._path, self._kept)

    def again(self) -> Path:
        """As it was made, whatever was done to it since."""
        shutil.rmtree(self._path)
        shutil.copytree(self._kept, self._path)
        return self._path
