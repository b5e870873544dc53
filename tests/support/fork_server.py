"""A process that has loaded what every command loads, and forks a child for each command asked for.

Loading takes longer than most commands work. It keeps to one thread of Python: what has threads of
its own from its import on (Polars) or keeps what it read of the environment (Ray Serve) is loaded by
each child anew. The threads left are OpenBLAS's and jemalloc's, which both see to a fork themselves.
The other side of it is `forked.py`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import socket
import struct
import sys
import threading
from typing import Any

SIZE_MAX = 1 << 18
STATUS = struct.Struct("=i")

# Of ours, what loads the most and no Polars; of others, what some commands load in addition.
LOADED = (
    "lakehouse_ray.assembly.stores",
    "lakehouse_ray.cli.endings",
    "lakehouse_ray.cli.options",
    "lakehouse_ray.model.datasets.registry",
    "lakehouse_ray.model.products.registry",
    "lakehouse_ray.model.workflows",
    "lakehouse_ray.query.gate",
    "lakehouse_ray.runtime.jobs",
    "lakehouse_ray.runtime.pool",
    "lakehouse_ray.runtime.session",
    "lakehouse_ray.runtime.shared",
    "lakehouse_ray.settings",
    "lakehouse_ray.storage.catalog",
    "lakehouse_ray.storage.committer",
    "lakehouse_ray.storage.objects",
    "aiohttp.web",
    "boto3",
    "fastapi",
    "sklearn.ensemble",
    "uvicorn",
)


def serve(control: socket.socket) -> list[str] | None:
    """Fork as asked. Returns in a child with its arguments, in this process when nobody asks more."""
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is not control:
                    ready.unregister(key.fd)
                    _tell_end(key.fd, *key.data)
                    continue
                message, fds, _, _ = socket.recv_fds(control, SIZE_MAX, 4)
                if not message:
                    return None
                *streams, told = fds
                asked = json.loads(message)
                pid = os.fork()
                if pid == 0:
                    for other in list(ready.get_map().values()):
                        if other.fileobj is not control:
                            os.close(other.fd)
                            other.data[1].close()
                    os.close(told)
                    return _become(asked, streams)
                for fd in streams:
                    os.close(fd)
                asker = socket.socket(fileno=told)
                asker.send(STATUS.pack(pid))
                ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, asker))


def _tell_end(pidfd: int, pid: int, asker: socket.socket) -> None:
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    with asker:
        try:
            asker.send(STATUS.pack(status))
        except OSError:
            return  # nobody asks any more


def _become(asked: dict[str, Any], streams: list[int]) -> list[str]:
    """Be what a new process would be."""
    if asked["new_session"]:
        os.setsid()
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    arguments: list[str] = asked["arguments"]
    return arguments


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in LOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1
    assert "polars" not in sys.modules, "Polars starts threads, which a child would not have"
    gc.collect()
    gc.freeze()  # or a child would copy all of it, looking for garbage
    arguments = serve(control)
    control.close()
    if arguments is None:
        return
    script, *_ = sys.argv = arguments
    sys.path[0] = os.path.dirname(script)
    sys.modules["__main__"].__file__ = script  # what Ray calls a driver
    from lakehouse_ray.cli.app import main as command

    command()


if __name__ == "__main__":
    main()
