"""`lakehouse doctor`: what is wrong with an installation, and how to mend it."""

from __future__ import annotations

import email.utils
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import psutil  # type: ignore[import-untyped]
import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, settings_of
from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.settings import Settings

PACKAGE = "lakehouse-ray"
NETWORK_TIMEOUT_S = 5.0
SKEW_S_MAX = 5.0
_GIB = 1 << 30

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Diagnosis:
    """One thing looked at. mend: What to do, where it is not ok."""

    check: str
    status: Status
    detail: str
    mend: str = ""


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Also start (or join) Ray.")] = False,
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Say what is wrong with this installation and how to mend it.

    Ends with 1 where there is a problem, with 0 where there are warnings at most.

    Example: lakehouse doctor --deep
    """
    settings = settings_of(home=home)
    checks: list[Callable[[], Iterator[Diagnosis]]] = [
        _versions,
        lambda: _ray(settings),
        _machine,
        lambda: _storage(settings),
        lambda: _catalog(settings),
        lambda: _archive(settings, SystemClock()),
    ]
    if deep:
        checks.append(lambda: _ray_starts(settings))
    found: list[Diagnosis] = []
    for check in checks:
        for diagnosis in check():
            found.append(diagnosis)
            if not json_:
                typer.echo(_line(diagnosis))
    problems = sum(diagnosis.status == "problem" for diagnosis in found)
    if json_:
        document = {"v": 1, "ok": not problems, "findings": [asdict(one) for one in found]}
        typer.echo(json.dumps(document))
    else:
        warnings = sum(diagnosis.status == "warning" for diagnosis in found)
        typer.echo(f"{problems} problems, {warnings} warnings")
    return endings.UNEXPECTED if problems else endings.OK


def _line(diagnosis: Diagnosis) -> str:
    text = f"{diagnosis.status:<8} {diagnosis.check:<12} {diagnosis.detail}"
    return f"{text}\n{'':<21} -> {diagnosis.mend}" if diagnosis.mend else text


def _versions() -> Iterator[Diagnosis]:
    """Python and every required library against the bounds this package was built with."""
    python = platform.python_version()
    wanted = importlib.metadata.metadata(PACKAGE)["Requires-Python"]
    fits = SpecifierSet(wanted).contains(python, prereleases=True)
    yield Diagnosis(
        "python",
        "ok" if fits else "problem",
        f"{python} (wanted {wanted})",
        "" if fits else "make the virtual environment with a supported Python",
    )
    wrong = list(_wrong_libraries())
    if wrong:
        mend = f"{sys.executable} -m pip install --upgrade {PACKAGE}"
        yield Diagnosis("libraries", "problem", "; ".join(wrong), mend)
    else:
        version = importlib.metadata.version(PACKAGE)
        yield Diagnosis("libraries", "ok", f"{PACKAGE} {version} and all it needs")


def _wrong_libraries() -> Iterator[str]:
    for line in importlib.metadata.requires(PACKAGE) or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} is {version}, wanted {requirement.specifier}"


def _ray(settings: Settings) -> Iterator[Diagnosis]:
    """What Ray needs, without starting it."""
    if importlib.util.find_spec("ray") is None:
        yield Diagnosis("ray", "problem", "not installed", 'pip install "ray[default]"')
        return
    version = importlib.metadata.version("ray")
    address = settings.ray.address
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        reached = _connects(host, int(port))
        yield Diagnosis(
            "ray",
            "ok" if reached else "problem",
            f"{version}; the cluster at {address} {'answers' if reached else 'does not answer'}",
            "" if reached else "start the cluster, or mend ray.address (LAKEHOUSE_RAY__ADDRESS)",
        )
    else:
        how = f"joins {address}" if address else "starts its own"
        yield Diagnosis("ray", "ok", f"{version}; {how}; --deep tries it")
    yield _ray_token(joins=bool(address))
    yield _loopback()
    yield _shared_memory(settings.compute.object_store_mb << 20)


def _ray_token(*, joins: bool) -> Diagnosis:
    """Whether a cluster would be shown a token. An own local Ray makes one for itself."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if mode not in ("", "token", "disabled", "k8s"):
        return Diagnosis(
            "ray token", "problem", f"RAY_AUTH_MODE is {mode!r}", "set it to token or disabled"
        )
    if path and not Path(path).is_file():
        return Diagnosis(
            "ray token",
            "problem",
            f"RAY_AUTH_TOKEN_PATH names {path}, which is no file",
            "name the file that holds the cluster's token, or unset it",
        )
    if joins and mode == "disabled":
        return Diagnosis(
            "ray token",
            "warning",
            "RAY_AUTH_MODE is disabled: who reaches the cluster's ports controls it",
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node",
        )
    if joins and not path and not os.environ.get("RAY_AUTH_TOKEN"):
        return Diagnosis(
            "ray token",
            "warning",
            "no token is set for the cluster; Ray would take ~/.ray/auth_token",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH explicitly",
        )
    return Diagnosis("ray token", "ok", f"mode {mode or 'of Ray itself'}, {path or 'own token'}")


def _loopback() -> Diagnosis:
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            reached = _connects("127.0.0.1", listener.getsockname()[1])
    except OSError as error:
        return Diagnosis("ports", "problem", f"no port can be opened: {error}", "allow loopback")
    if not reached:
        return Diagnosis(
            "ports", "problem", "127.0.0.1 does not answer itself", "allow loopback in the firewall"
        )
    return Diagnosis("ports", "ok", "ports can be opened on 127.0.0.1")


def _connects(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=NETWORK_TIMEOUT_S):
            return True
    except OSError:
        return False


def _shared_memory(needed_bytes: int) -> Diagnosis:
    folder = Path("/dev/shm")  # where Ray keeps its object store on Linux
    if not folder.is_dir():
        return Diagnosis("shm", "ok", "no /dev/shm on this system")
    free = shutil.disk_usage(folder).free
    detail = f"/dev/shm has {free / _GIB:.1f} GiB free"
    if free < needed_bytes:
        return Diagnosis(
            "shm",
            "warning",
            f"{detail}, Ray wants {needed_bytes / _GIB:.2f}: it would use the disk instead",
            "docker run --shm-size=1g, or a smaller compute.object_store_mb",
        )
    return Diagnosis("shm", "ok", detail)


def _machine() -> Iterator[Diagnosis]:
    """Limits of this machine and process."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= files < 4096
    yield Diagnosis(
        "open files",
        "warning" if few else "ok",
        f"ulimit -n is {files}",
        "ulimit -n 65536: Ray and downloads hold many sockets" if few else "",
    )
    memory = psutil.virtual_memory()
    short = memory.available < 2 * _GIB
    yield Diagnosis(
        "memory",
        "warning" if short else "ok",
        f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available, "
        f"{os.cpu_count()} CPUs",
        "a small worker takes 2 GiB: end other programs, or use a larger machine" if short else "",
    )


def _storage(settings: Settings) -> Iterator[Diagnosis]:
    """Whether home and store can be written, and have room."""
    yield _folder("home", settings.home)
    root = settings.storage_root
    if "://" not in root:
        yield _folder("store", Path(root))
        return
    from lakehouse_ray.assembly.reader import Reader

    path = f"tmp/doctor-{uuid.uuid4().hex}"
    try:
        store = Reader(settings).store
        store.put(path, b"doctor")
        read = store.get(path)
        store.delete(path)
    except LakehouseError as error:
        mend = "check storage.root, storage.s3.* and the rights to get, put and delete objects"
        yield Diagnosis("store", "problem", str(error), mend)
        return
    same = read == b"doctor"
    yield Diagnosis(
        "store",
        "ok" if same else "problem",
        f"{root} can be read and written" if same else f"{root} gives back other bytes",
        "" if same else "use a store that keeps what it is given",
    )


def _folder(check: str, folder: Path) -> Diagnosis:
    """Try to write into a folder, or into the one that it would be made in."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    mend = f"chown or chmod {there}, or choose another place (--home, LAKEHOUSE_STORAGE__ROOT)"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"doctor")
    except OSError as error:
        return Diagnosis(check, "problem", f"{folder} cannot be written: {error}", mend)
    free = shutil.disk_usage(there).free
    detail = f"{folder} can be written, {free / _GIB:.1f} GiB free"
    if free < _GIB:
        return Diagnosis(check, "problem", detail, "make room: ingestion stops on a full disk")
    if free < 10 * _GIB:
        return Diagnosis(
            check, "warning", detail, "a year of 1m bars of all pairs takes some 6 GiB"
        )
    return Diagnosis(check, "ok", detail)


def _catalog(settings: Settings) -> Iterator[Diagnosis]:
    """Whether the catalog opens and knows its tables."""
    from lakehouse_ray.assembly.reader import Reader

    reader = Reader(settings)
    if not reader.exists:
        yield Diagnosis("catalog", "ok", "none yet; the first ingestion makes it")
        return
    try:
        names = reader.catalog.names()
        unreadable = [name for name in names if reader.find(name) is None]
    except (LakehouseError, OSError) as error:
        mend = "check catalog.uri; if the file is damaged, restore it from a backup"
        yield Diagnosis("catalog", "problem", str(error), mend)
        return
    if unreadable:
        detail = f"cannot be opened: {', '.join(unreadable)}"
        yield Diagnosis("catalog", "problem", detail, "`lakehouse verify` says what is missing")
        return
    yield Diagnosis("catalog", "ok", f"answers, {len(names)} tables")


def _archive(settings: Settings, clock: Clock) -> Iterator[Diagnosis]:
    """Whether the archive answers, and whether its clock and ours agree."""
    urls = settings.binance
    query = urllib.parse.urlencode({"prefix": "data/", "delimiter": "/", "max-keys": 1})
    listing = f"{urls.listing_url}?{query}"
    date = ""
    for check, url, method in (
        ("archive", urls.archive_url, "HEAD"), ("listing", listing, "GET"),
    ):  # fmt: skip
        try:
            status, body, date = _request(url, method)
        except (OSError, ValueError) as error:
            mend = (
                "check network, proxy and binance.archive_url; what is stored can be read offline"
            )
            yield Diagnosis(check, "problem", f"{url} does not answer: {error}", mend)
            continue
        wrong = status >= 500 or (check == "listing" and b"ListBucketResult" not in body)
        yield Diagnosis(
            check,
            "problem" if wrong else "ok",
            f"{url} answers {status}{' with something else than a listing' if wrong else ''}",
            "check binance.archive_url and binance.listing_url" if wrong else "",
        )
    if date:
        yield _skew(date, clock.now_us())


def _request(url: str, method: str) -> tuple[int, bytes, str]:
    """Status, the start of the body, and the Date header."""
    request = urllib.request.Request(url, method=method)  # a setting: http(s) only
    try:
        with urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT_S) as answer:
            return answer.status, answer.read(4096), answer.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b"", error.headers.get("Date", "")


def _skew(date: str, now_us: int) -> Diagnosis:
    """Compare clocks; the header has whole seconds."""
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Diagnosis("clock", "warning", f"the archive says it is {date!r}", "ask it again")
    skew = now_us / 1e6 - theirs
    if abs(skew) > SKEW_S_MAX:
        return Diagnosis(
            "clock",
            "warning",
            f"this machine is {skew:+.0f} s off the archive",
            "synchronise it (chrony, systemd-timesyncd): signed requests and cut-offs go by it",
        )
    return Diagnosis("clock", "ok", f"within {SKEW_S_MAX:g} s of the archive")


def _ray_starts(settings: Settings) -> Iterator[Diagnosis]:
    from lakehouse_ray.runtime.session import connect

    try:
        with connect(
            settings.ray.address, object_store_bytes=settings.compute.object_store_mb << 20
        ) as session:
            yield Diagnosis("ray starts", "ok", str(session.view()))
    except LakehouseError as error:
        mend = "see the checks of ray, ports and shm; logs are in /tmp/ray or the cluster's"
        yield Diagnosis("ray starts", "problem", str(error), mend)
