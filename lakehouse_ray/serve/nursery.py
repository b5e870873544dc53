"""Processes for statements, quick to begin: copies of one that has loaded what they need.

To load interpreter and engine takes a third of a second of a processor, to copy a process that has
some milliseconds. The copies lie alike in memory, as they would not if each began anew; what a
statement may do is bounded by its own confinement, not by that.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import IO, Protocol

# A third of the time to begin would be numpy, which DuckDB and Arrow take where it is; a statement has
# no use for it.
_BEGIN = (
    "import sys; sys.modules['numpy'] = None; "
    "from lakehouse_ray.serve.sandbox_child import {main}; {main}()"
)
_COPIED = b"c"
# A process that loads takes a second or two of a busy machine; what takes longer is no answer.
_ANSWER_TIMEOUT_S = 30.0


class Process(Protocol):
    """A process that waits for a statement: what is used of `subprocess.Popen`."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


class Nursery:
    """Makes processes; safe for several threads. Where the system has no pidfd, each begins anew.

    answer_timeout_s: Who makes copies and does not answer for so long is replaced.
    """

    def __init__(self, answer_timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
        self._answer_timeout_s = answer_timeout_s
        self._lock = threading.Lock()
        self._mother: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def process(self) -> Process:
        """A new process. Raises OSError where the system has no room for one."""
        if not hasattr(os, "pidfd_open"):
            return _begin("main", subprocess.PIPE, subprocess.PIPE)
        with self._lock:
            try:
                return self._copy()
            except (ConnectionError, TimeoutError):  # the mother has died, or hangs: another one
                self._end()
                return self._copy()

    def close(self) -> None:
        with self._lock:
            self._end()

    def _copy(self) -> Process:
        if self._line is None:
            self._line, theirs = socket.socketpair()
            self._line.settimeout(self._answer_timeout_s)
            with theirs:
                self._mother = _begin("mother", theirs.fileno(), subprocess.DEVNULL)
        stdin_theirs, stdin = os.pipe()
        stdout, stdout_theirs = os.pipe()
        answers, jobs = os.fdopen(stdout, "rb"), os.fdopen(stdin, "wb")
        try:
            socket.send_fds(self._line, [_COPIED], [stdin_theirs, stdout_theirs])
            word, descriptors, _, _ = socket.recv_fds(self._line, len(_COPIED), 1)
            if word != _COPIED or len(descriptors) != 1:
                raise ConnectionResetError("no process was made")
        except BaseException:
            jobs.close()
            answers.close()
            raise
        finally:
            os.close(stdin_theirs)
            os.close(stdout_theirs)
        return _Copy(jobs, answers, descriptors[0])

    def _end(self) -> None:
        """Of the mother; her children end with her."""
        if self._line is not None:
            self._line.close()
        if self._mother is not None:
            self._mother.kill()
            self._mother.wait()
        self._line = self._mother = None


class _Copy:
    """A process that is no child of this one, known by its pidfd."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes], descriptor: int) -> None:
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._descriptor = descriptor
        # A descriptor that is closed may be another's next: it is never used after that.
        self._lock = threading.Lock()
        self._ended = False

    def poll(self) -> int | None:
        return self._seen_to_end(0)

    def kill(self) -> None:
        with self._lock:
            if not self._ended:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self) -> int:
        while (code := self._seen_to_end(1000)) is None:
            pass
        return code

    def _seen_to_end(self, timeout_ms: int) -> int | None:
        """0 where it has ended: with what is its mother's to know."""
        with self._lock:
            if not self._ended:
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLIN)
                if not waiting.poll(timeout_ms):
                    return None
                os.close(self._descriptor)
                self._ended = True
            return 0

    def __del__(self) -> None:
        with self._lock:
            if not self._ended:
                os.close(self._descriptor)
                self._ended = True


def _begin(main: str, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    # Nothing of this process's environment: it has credentials in it.
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", _BEGIN.format(main=main)],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,  # signals of a terminal are the parent's business
    )
