from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse_ray.runtime import own_folder


def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    # The last is what a container finds that was started anew: its process has the same id.
    for pid in (gone.pid, os.getppid(), os.getpid()):
        folder = tmp_path / f"lake-ray-{pid}-a"
        folder.mkdir()
        told = own_folder.tell_prometheus(folder, "127.0.0.1:9")
        assert told == tmp_path / f"lake-ray-{pid}-a.json"
    own_folder.remove_leftovers()
    kept = f"lake-ray-{os.getppid()}-a"
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept, f"{kept}.json"]
