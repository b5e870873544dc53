"""The process that runs one statement of a stranger, and then ends.

It takes its job from stdin and writes frames to stdout. Before it looks at the statement it gives up
whatever it does not need: files but those of the pinned snapshot, writing, memory, processor time.
It imports little: where processes cannot be copied (`serve/nursery.py`) one is started for every
statement.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import IO, Any

import duckdb
import pyarrow as pa

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.gate import check_text, check_tree, one_select
from lakehouse_ray.query.narrowing import narrowed

HEADER = struct.Struct(">cI")
SCHEMA, ARROW, DONE, ERROR, READY, WANTS = b"S", b"A", b"D", b"E", b"R", b"W"
_BATCH_ROWS = 30_000

# x86-64 and arm64 number these alike.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many rights over files each version of Landlock knows: the second to link, the third to
# truncate, the fifth to control devices.
_RIGHTS_KNOWN = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_KNOWN_LATER = 16
_TCP_BIND, _TCP_CONNECT = 1, 2
# What DuckDB and the C library look at besides data.
_SYSTEM = (
    ("/usr", _READ_FILE | _READ_DIR), ("/sys", _READ_FILE | _READ_DIR),
    ("/proc/meminfo", _READ_FILE), ("/proc/self/cgroup", _READ_FILE),
    ("/proc/self/mountinfo", _READ_FILE), ("/etc/localtime", _READ_FILE),
)  # fmt: skip


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def _landlock_version() -> int:
    """Of the system's Landlock; below 1: it has none."""
    if sys.platform != "linux":
        return 0
    version: int = ctypes.CDLL(None, use_errno=True).syscall(_LANDLOCK_CREATE, None, 0, 1)
    return version


def can_confine() -> bool:
    """Whether the system can keep files and network from a process: Linux with Landlock."""
    return _landlock_version() >= 1


def confine(paths: list[str]) -> bool:
    """Let this thread and those it starts read these files alone, write none, connect nowhere.

    Returns whether the system could.
    """
    version = _landlock_version()
    if version < 1:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    net = _TCP_BIND | _TCP_CONNECT if version >= 4 else 0
    known = _RIGHTS_KNOWN.get(version, _RIGHTS_KNOWN_LATER)
    rules = _Ruleset((1 << known) - 1, net)
    size = ctypes.sizeof(rules) if version >= 4 else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return False
    for path, rights in (*_SYSTEM, *((path, _READ_FILE) for path in paths)):
        with contextlib.suppress(OSError):  # a file that is gone cannot be read anyway
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = _Beneath(rights, descriptor)
            libc.syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0)
            os.close(descriptor)
    restricted: bool = libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return restricted


def limit(memory_bytes: int, cpu_s: int) -> None:
    """Bounds that no statement can talk its way around."""
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        _, hard = resource.getrlimit(kind)
        top = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has no bound of addresses
            resource.setrlimit(kind, (top, top))


def open_database(job: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """A database with the job's views that can read its files and nothing else, locked.

    Raises AssertionError where a lock does not hold.
    """
    connection = duckdb.connect(
        ":memory:",
        config={
            "python_enable_replacements": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_unsigned_extensions": "false",
            "allow_persistent_secrets": "false",
            "enable_external_file_cache": "false",
            "threads": str(job["threads"]),
            "memory_limit": f"{job['memory_bytes']}B",
            "max_execution_time": str(round(job["timeout_s"] * 1000)),
            "temp_directory": "",
        },
    )
    connection.execute("SET GLOBAL TimeZone='UTC'")
    for schema in job["schemas"]:
        connection.execute(f"CREATE SCHEMA {schema}")
    # Before the locks: a file that is lost is told as such, not as one that may not be read.
    for statement in job["views"] or ():
        connection.execute(statement)
    connection.execute(f"SET GLOBAL allowed_paths=[{_listed(job['paths'])}]")
    connection.execute(f"SET GLOBAL allowed_directories=[{_listed(job['folders'])}]")
    connection.execute("SET GLOBAL enable_external_access=false")
    connection.execute("SET GLOBAL lock_configuration=true")
    locks = connection.execute(
        "SELECT current_setting('enable_external_access'), current_setting('lock_configuration')"
    ).fetchall()
    if locks != [(False, True)]:
        raise AssertionError(f"the database is not locked: {locks}")
    return connection


def _listed(paths: list[str]) -> str:
    return ", ".join("'" + path.replace("'", "''") + "'" for path in paths)


def check(connection: duckdb.DuckDBPyConnection, query: str, tables: list[str]) -> dict[str, Any]:
    """Return a statement's syntax tree.

    Raises InvalidError for what is not allowed, duckdb.ParserException for what is no SQL.
    """
    check_text(query)
    statements = connection.extract_statements(query)
    if len(statements) != 1 or statements[0].type.name != "SELECT":
        raise one_select()
    ((serialized,),) = connection.execute(
        "SELECT json_serialize_sql(?::VARCHAR, skip_null := true, skip_empty := true, "
        "skip_default := true)",
        [query],
    ).fetchall()
    try:
        tree: dict[str, Any] = json.loads(serialized)
    except RecursionError as error:
        raise InvalidError("the statement is nested too deeply", "ask for less at once") from error
    names = connection.execute("SELECT view_name FROM duckdb_views() WHERE internal").fetchall()
    check_tree(tree, set(tables), {str(name[0]).lower() for name in names})
    return tree


class Frames:
    """Bytes to the parent, each piece with its kind and length."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self.closed = False

    def send(self, kind: bytes, payload: bytes) -> None:
        self._sink.write(HEADER.pack(kind, len(payload)) + payload)
        self._sink.flush()

    def tell_json(self, kind: bytes, document: dict[str, Any]) -> None:
        self.send(kind, json.dumps(document).encode())

    def write(self, data: Any) -> int:
        payload = bytes(data)
        if payload:
            self.send(ARROW, payload)
        return len(payload)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def answer(job: dict[str, Any], frames: Frames, told: IO[bytes]) -> None:
    """told: Where the parent says what the views are, if it has to know first what is wanted."""
    connection = open_database(job)
    tree = check(connection, job["query"], job["tables"])
    parameters = job["parameters"]
    if job["views"] is None:
        frames.tell_json(WANTS, narrowed(tree, job["columns"], parameters))
        for statement in json.loads(told.readline()):
            connection.execute(statement)
    relation = connection.sql(job["query"], params=parameters)
    if relation is None:
        raise one_select()
    names = _distinct(relation.columns)
    frames.tell_json(SCHEMA, {"names": names, "types": [str(kind) for kind in relation.types]})
    reader = relation.to_arrow_reader(_BATCH_ROWS)
    rows = 0
    schema = pa.schema([f.with_name(n) for f, n in zip(reader.schema, names, strict=True)])
    with pa.ipc.new_stream(pa.PythonFile(frames, "w"), schema) as stream:
        for batch in reader:
            rows += batch.num_rows
            stream.write_batch(batch.rename_columns(names))
            if rows > job["rows_max"]:
                break
    frames.tell_json(DONE, {"rows": rows})


def _distinct(names: list[str]) -> list[str]:
    """Number repeated names, so that each column has one of its own."""
    found: list[str] = []
    for name in names:
        candidate, number = name, 0
        while candidate in found or (number and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found


def explain(error: BaseException) -> dict[str, str]:
    """What the parent is told. text: For its log alone."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, InvalidError):
        return {"kind": "refused", "detail": str(error), "hint": error.hint, "text": text}
    if isinstance(error, MemoryError | duckdb.OutOfMemoryException) or "Out of Memory" in text:
        return {"kind": "memory", "text": text}
    kind = str(error).partition(" Error:")[0]
    return {
        "kind": kind
        if isinstance(error, duckdb.Error | OSError | pa.ArrowException)
        else "internal",
        "text": text,
    }


def mother() -> None:
    """Copy this process for each pair of pipes that come by the socket on stdin; send back a pidfd."""
    _end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    gc.freeze()
    own = os.getpid()
    with socket.socket(fileno=os.dup(0)) as line:
        while True:
            word, pipes, _, _ = socket.recv_fds(line, 1, 2)
            if not word:
                return  # who asked has ended
            child = os.fork()
            if child == 0:
                line.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                for number, pipe in enumerate(pipes):
                    os.dup2(pipe, number)
                    os.close(pipe)
                main(own)
                os._exit(0)
            for pipe in pipes:
                os.close(pipe)
            try:
                descriptor = os.pidfd_open(child)
            except ProcessLookupError:
                line.sendall(word)  # it has ended already
                continue
            socket.send_fds(line, [word], [descriptor])
            os.close(descriptor)


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(parent: int | None = None) -> None:
    """parent: That it has to have; without it, it ends at once."""
    _end_with_parent()
    if parent is not None and os.getppid() != parent:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    frames = Frames(os.fdopen(os.dup(1), "wb"))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the parent has ended, or needs no more of us
    frames.send(READY, b"")  # what ends us from here on is the statement's doing
    job: dict[str, Any] = json.loads(line)
    confined = confine([*job["paths"], *job["folders"]])
    limit(job["address_bytes"], job["cpu_s"])
    try:
        if not confined and job["must_confine"]:
            raise AssertionError("this system cannot confine a process")
        answer(job, frames, sys.stdin.buffer)
    except BaseException as error:  # noqa: BLE001 - told to the parent, which decides
        frames.tell_json(ERROR, explain(error))
