"""Hosts as network namespaces on a bridge of this machine, each of which can be cut off."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

NETWORK = "10.77.0"
# A namespace, and what is tied to it, lives on as long as a process in it does.
_turns = itertools.count()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def why_not() -> str:
    """Why namespaces cannot be made here; empty where they can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    name = f"lkt{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False, text=True)
    if made.returncode:
        return f"`ip netns add` is not permitted: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


@dataclass(frozen=True)
class Host:
    name: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs something on it."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def cut_off(self) -> None:
        """From now on nothing comes or goes, and nobody is told."""
        _ip("-n", self.name, "link", "set", "eth0", "down")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts that reach one another."""
    own = f"{os.getpid() % 100_000}.{next(_turns)}"
    bridge = f"lkb{own}"
    found = [Host(f"lkn{own}-{n}", f"{NETWORK}.{n}") for n in range(1, count + 1)]
    with ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{NETWORK}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for n, host in enumerate(found):
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            outer = f"lkv{own}-{n}"
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            stack.callback(_ip, "link", "del", outer)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield found
