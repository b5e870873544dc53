"""What a cluster, or this machine as a cluster of one, has to give. Facts only; no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_CGROUP = Path("/sys/fs/cgroup")

# Ray leaves this part of a machine's memory to itself and to everything else (its own default).
_MEMORY_SHARE = 0.7


@dataclass(frozen=True)
class NodeView:
    """One node as Ray sees it.

    memory_bytes: Memory that workers may reserve, which is less than the machine has.
    ip: Address of the node; where several nodes share a machine, it does not tell them apart.
    cpus_free, memory_free_bytes: What nobody has reserved at the moment; all of it, where nobody asked.
    """

    node_id: str
    cpus: float
    memory_bytes: int
    alive: bool = True
    ip: str = ""
    object_store_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    cpus_free: float | None = None
    memory_free_bytes: int | None = None

    @property
    def free(self) -> NodeView:
        """The same node with only what is free of it."""
        return replace(
            self,
            cpus=self.cpus if self.cpus_free is None else self.cpus_free,
            memory_bytes=(
                self.memory_bytes if self.memory_free_bytes is None else self.memory_free_bytes
            ),
        )


@dataclass(frozen=True)
class ClusterView:
    """All nodes of a cluster. The sums count the living ones.

    may_grow: It is not ours alone, so an autoscaler may add nodes to it.
    """

    nodes: tuple[NodeView, ...]
    may_grow: bool = False

    @property
    def alive(self) -> tuple[NodeView, ...]:
        return tuple(node for node in self.nodes if node.alive)

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.alive)

    @property
    def memory_bytes(self) -> int:
        return sum(node.memory_bytes for node in self.alive)

    @property
    def object_store_bytes(self) -> int:
        return sum(node.object_store_bytes for node in self.alive)

    @property
    def free(self) -> ClusterView:
        """The same nodes with only what is free of them."""
        return replace(self, nodes=tuple(node.free for node in self.nodes))

    def labelled(self, labels: Mapping[str, str]) -> ClusterView:
        """Those nodes alone that have all these labels."""
        kept = (n for n in self.nodes if labels.items() <= n.labels.items())
        return replace(self, nodes=tuple(kept))

    def __str__(self) -> str:
        if not self.alive:
            return "no nodes"
        nodes = "; ".join(_node_text(node) for node in _largest(self.alive)[:5])
        more = f"; and {len(self.alive) - 5} more" if len(self.alive) > 5 else ""
        count = "1 node" if len(self.alive) == 1 else f"{len(self.alive)} nodes"
        return f"{count} with {self.cpus:g} CPUs in all ({nodes}{more})"


def this_machine(cpus: int | None = None) -> ClusterView:
    """This machine as a cluster of one node, inside the limits of its container.

    cpus: CPUs to count with instead of those found.
    """
    memory_bytes = int(_MEMORY_SHARE * min(psutil.virtual_memory().total, _container_memory()))
    return ClusterView((NodeView("this machine", cpus or _own_cpus(), memory_bytes),))


def memory_that_fits(view: ClusterView, cpus: float, memory_bytes: int) -> int | None:
    """The part of `memory_bytes` that a worker of `cpus` CPUs can reserve on some node.

    Ray's memory resource only counts, it does not limit. A worker that asks for more of it than any
    node has would never start, so it asks for what there is. None: no node has the CPUs.
    """
    room = [node.memory_bytes for node in view.alive if node.cpus >= cpus]
    return min(memory_bytes, max(room)) if room else None


def _own_cpus() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cpus, _container_cpus())))


def _container_cpus() -> float:
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else float("inf")


def _container_memory() -> float:
    limits = (_CGROUP / "memory.max", _CGROUP / "memory" / "memory.limit_in_bytes")
    found = [int(text) for path in limits if (text := _read(path)).isdigit()]
    return min(found, default=float("inf"))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _largest(nodes: Iterable[NodeView]) -> list[NodeView]:
    return sorted(nodes, key=lambda node: (-node.cpus, -node.memory_bytes))


def _node_text(node: NodeView) -> str:
    return f"{node.ip or node.node_id}: {node.cpus:g} CPUs, {node.memory_bytes / 2**30:.1f} GiB"
