"""`lakehouse …` as a process of its own that need not load the package first: fork_server.py's child.

It has its pid, environment, folder, streams, session and signals, and ends with its own code, as
the command has. Only what a process does before the command's first line is not as it was: so the
command itself is what tests of that use, and those of /acceptance.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.fork_server import STATUS

LAKEHOUSE = str(Path(sys.executable).with_name("lakehouse"))
# Of variables that nothing reads while it is loaded, or that are read again (Ray's token). pytest's names
# the test that runs.
READ_LATE = (
    "LAKEHOUSE_", "AWS_", "RAY_AUTH_", "RAY_USAGE_STATS_ENABLED", "PYTEST_CURRENT_TEST",
)  # fmt: skip


class Forked(subprocess.Popen[Any]):
    """`Popen` of a command, forked. Arguments as Popen's; those it does not know of are refused."""

    def __init__(self, server: _Server, arguments: list[str], **options: Any) -> None:
        self._server = server
        super().__init__(arguments, **options)

    def _execute_child(self, *given: Any) -> None:  # type: ignore[override]
        (
            args, _executable, _preexec_fn, _close_fds, _pass_fds, cwd, env, _startupinfo,
            _creationflags, _shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
            _restore_signals, _gid, _gids, _uid, _umask, new_session, _process_group,
        ) = given  # fmt: skip
        asked = {
            "arguments": list(args),
            "cwd": os.path.abspath(cwd or "."),
            "env": dict(os.environ if env is None else env),
            "new_session": new_session,
        }
        streams = [
            fd if fd != -1 else number for number, fd in enumerate((p2cread, c2pwrite, errwrite))
        ]
        self._told, self.pid = self._server.fork(asked, streams)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _internal_poll(self, _deadstate: int | None = None, *_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG:
            looked = select.poll()  # select() has no more than 1,024 files
            looked.register(self._told, select.POLLIN)
            if not looked.poll(0):
                return 0, 0
        status = self._told.recv(STATUS.size)
        self._told.close()
        assert status, "the fork server is gone"
        return self.pid, STATUS.unpack(status)[0]


class _Server:
    """One for each process of pytest; it ends when that does."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asking = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.fork_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[1],
                env={**env},
                start_new_session=True,
            )
        atexit.register(self._end)

    def fork(self, asked: dict[str, Any], streams: list[int]) -> tuple[socket.socket, int]:
        """Its pid, and where its status will come."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._asking:
            message = json.dumps(asked).encode()
            socket.send_fds(self._control, [message], [*streams, theirs.fileno()])
        pid = ours.recv(STATUS.size)
        assert pid, "the fork server is gone"
        return ours, STATUS.unpack(pid)[0]

    def _end(self) -> None:
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


# By what their commands read early; what is asked for once is not worth a server.
_servers: dict[frozenset[tuple[str, str]], _Server | None] = {}
_starting = threading.Lock()


def popen(*arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> Any:
    """`subprocess.Popen` of `lakehouse` with such arguments.

    The command itself where its environment says what no other's does of what is read while it is
    loaded.
    """
    env = dict(os.environ if env is None else env)
    command = [LAKEHOUSE, *arguments]
    server = _server_for(env)
    if server is None:
        return subprocess.Popen(command, env=env, **options)
    return Forked(server, command, env=env, **options)


def _server_for(env: Mapping[str, str]) -> _Server | None:
    """The one of such an environment: from the first command on of the first, the second of others."""
    if not hasattr(os, "pidfd_open"):
        return None
    early = frozenset(_read_early(env).items())
    with _starting:
        known = _servers.get(early)
        if known is None and (not _servers or early in _servers):
            known = _Server({k: v for k, v in env.items() if not k.startswith("RAY_AUTH_")})
        _servers[early] = known
        return known


def completed(
    *arguments: str,
    timeout_s: float = 180,
    input: str | bytes | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` of `lakehouse` with such arguments; what it says is captured."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        streams["stdin"] = subprocess.PIPE
    with popen(*arguments, **streams, **options) as process:
        try:
            out, err = process.communicate(input, timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _read_early(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if not name.startswith(READ_LATE)}
