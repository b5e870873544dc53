"""How many workers of which size a plan gets. Pure: work and cluster in, decision and reasons out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.runtime.cluster import ClusterView, NodeView
from lakehouse_ray.runtime.executor import PoolSpec

Kind = Literal["ingest", "process", "analytics", "other"]

PROFILE_OF_KIND: Mapping[Kind, str] = {
    "ingest": "medium",
    "process": "large",
    "analytics": "xlarge",
    "other": "small",
}

GIB = 1 << 30
MIB = 1 << 20

# A worker costs about half a second of a CPU to start, in which it could have ingested some 15 MiB.
# 4 MiB each still end sooner with one more worker, since its start runs beside the others' work.
ACTOR_BYTES_MIN = 4 * MIB

# Rounds that each call slot of a pool goes through. The last round is the one in which slots idle:
# with four, an eighth of the time at worst, half of that on average.
ROUNDS_MIN = 4

# Smaller units are more overhead than work (1 MiB: 35 ms) and make small files.
BATCH_BYTES_MIN = MIB

# What a compressed byte becomes on its way: 5 of CSV, as many as columns, and Parquet buffers.
# Measured on 1m klines; rounded up.
INFLATION = 12

# A part of the worker's memory is the interpreter, its libraries and Ray: about 400 MiB of 2 GiB.
BATCH_MEMORY_SHARE = 0.5

# Workers were seen to stay under 1 GiB; below this there is no room for a unit of a useful size.
WORKER_MEMORY_MIN = 768 * MIB

# A larger profile may leave so much of a cluster idle before a smaller one is taken: fewer, larger
# workers share connections and caches.
IDLE_SHARE_MAX = 0.1


@dataclass(frozen=True)
class Workload:
    """What there is to do.

    files: Objects to read.
    compressed_bytes: Their sizes together.
    units: Pieces the work can be cut into at most; a worker without one would idle.
    unit_bytes_max: Compressed bytes a piece may hold, whatever the workers could bear.
    in_parts: A piece is worked on part by part, so that its size asks for no memory.
    """

    kind: Kind
    files: int
    compressed_bytes: int
    units: int
    unit_bytes_max: int = 32 * MIB
    in_parts: bool = False


@dataclass(frozen=True)
class Allocation:
    """A pool for a workload.

    depth: Calls at once in one worker: one for each of its CPUs, and one that waits for the network
        meanwhile. So at most `cpus_per_actor` of them may compute at once.
    batch_bytes: Compressed bytes that a unit of work should hold.
    reasons: Why it is so, in sentences.
    """

    profile: str
    cpus_per_actor: float
    memory_bytes_per_actor: int
    actors: int
    depth: int
    batch_bytes: int
    executor: Literal["local", "ray"]
    reasons: tuple[str, ...]

    def spec(self, *, attempts_max: int = 3, deadline_s: float = 1800.0) -> PoolSpec:
        """The pool to ask an executor for."""
        return PoolSpec(
            actors=self.actors,
            cpus=self.cpus_per_actor,
            memory_bytes=self.memory_bytes_per_actor,
            depth=self.depth,
            attempts_max=attempts_max,
            deadline_s=deadline_s,
        )

    def explain(self) -> tuple[str, ...]:
        """The decision and its reasons as sentences for a plan."""
        where = "in this process" if self.executor == "local" else "on Ray"
        workers = "1 worker" if self.actors == 1 else f"{self.actors} workers"
        head = (
            f"{workers} {where}, profile {self.profile} ({_count(self.cpus_per_actor, 'CPU')} and "
            f"{self.memory_bytes_per_actor / GIB:.3g} GiB each), {self.depth} units at once in "
            f"each, units of about {_size(self.batch_bytes)}."
        )
        return (head, *self.reasons)


@dataclass(frozen=True)
class _Option:
    """A size of worker, and how many of it the cluster holds."""

    profile: str
    cpus: float
    memory_bytes: int
    actors: int

    @property
    def cpus_used(self) -> float:
        return self.actors * self.cpus


def allocate(
    work: Workload,
    view: ClusterView,
    profiles: Mapping[str, tuple[float, float]],
    *,
    profile: str = "",
    actors: int = 0,
    cpus_max: float = 0,
    local_bytes_max: int = 0,
) -> Allocation:
    """Size a pool for `work` on the cluster of `view`.

    profiles: CPUs and GiB of memory of one worker, by name.
    profile, actors: What a person chose instead; empty and 0: choose here. More actors than the
        cluster holds are cut to those it holds.
    cpus_max: CPUs the pool may use. Below what there is, it leaves room for others; above, on a
        cluster that may grow, it asks an autoscaler for the rest. 0: what there is.
    local_bytes_max: Plans of fewer compressed bytes run without Ray.

    No CPU is left free by itself: whatever this package runs beside a pool (committers, budgets)
    reserves none, and on a cluster shared with others `cpus_max` says how much is theirs.

    Raises InvalidError where `profile` is unknown or fits no node.
    """
    reasons: list[str] = []
    if work.units == 0 or work.compressed_bytes < local_bytes_max:
        chosen = _local_option(view, profiles)
        reasons.append(
            f"{_size(work.compressed_bytes)} in {_count(work.files, 'file')} are done sooner in "
            f"this process than Ray starts (limit {_size(local_bytes_max)})."
        )
        depth = 2 if chosen.cpus_used <= 1 else math.floor(chosen.cpus_used) + 1
        return _allocation(work, chosen, 1, depth, "local", reasons)
    chosen = _choose(work.kind, view, profiles, profile, cpus_max, reasons)
    wanted = _actors(work, chosen, actors, reasons)
    depth = math.floor(max(1.0, chosen.cpus)) + 1
    return _allocation(work, chosen, wanted, depth, "ray", reasons)


def pack(view: ClusterView, cpus: float, memory_bytes: int) -> int:
    """How many workers of this size the nodes hold, each node counted by itself."""
    return sum(_pack_node(node, cpus, memory_bytes) for node in view.alive)


def _pack_node(node: NodeView, cpus: float, memory_bytes: int) -> int:
    by_cpu = math.floor(node.cpus / cpus + 1e-9)
    return min(by_cpu, node.memory_bytes // memory_bytes) if memory_bytes else by_cpu


def _choose(
    kind: Kind,
    view: ClusterView,
    profiles: Mapping[str, tuple[float, float]],
    profile: str,
    cpus_max: float,
    reasons: list[str],
) -> _Option:
    usual = profile or PROFILE_OF_KIND[kind]
    if usual not in profiles:
        raise InvalidError(f"no profile {usual!r}", f"one of {', '.join(profiles)}")
    if profile:
        option = _option(view, profile, profiles[profile], cpus_max)
        if not option.actors:
            raise InvalidError(
                f"profile {profile} ({option.cpus:g} CPUs, {option.memory_bytes / GIB:g} GiB) "
                f"fits no node; the cluster has {view}",
                "choose a smaller profile",
            )
        reasons.append(f"Profile {profile} was asked for.")
        return option
    smaller = sorted(
        (name for name, size in profiles.items() if size <= profiles[usual]),
        key=lambda name: profiles[name],
        reverse=True,
    )
    options = [_option(view, name, profiles[name], cpus_max) for name in smaller]
    options.append(_squeezed(view, options[-1], cpus_max))
    best = max(option.cpus_used for option in options)
    pair = min(2, max(option.actors for option in options))
    good = [
        option
        for option in options
        if option.actors >= pair and option.cpus_used >= (1 - IDLE_SHARE_MAX) * best
    ]
    chosen = good[0] if good else max(options, key=lambda option: option.cpus_used)
    reasons.extend(_why(kind, usual, options[0], chosen))
    return chosen


def _why(kind: Kind, usual: str, first: _Option, chosen: _Option) -> list[str]:
    found = [f"Work of kind {kind} takes profile {usual}."]
    if chosen.profile != usual:
        if first.actors == 0:
            cause = "fits no node"
        elif first.actors == 1:
            cause = "would give one worker alone, and several small ones are faster than it"
        else:
            cause = f"would use {first.cpus_used:g} CPUs where {chosen.cpus_used:g} can be used"
        found.append(f"{usual.capitalize()} {cause}, so {chosen.profile}.")
    if chosen.memory_bytes < first.memory_bytes * chosen.cpus / first.cpus:
        found.append(
            f"The nodes have less memory than the profile asks for: {_size(chosen.memory_bytes)} "
            "a worker, and smaller units."
        )
    return found


def _option(view: ClusterView, profile: str, size: tuple[float, float], cpus_max: float) -> _Option:
    cpus, memory_gib = size
    memory_bytes = int(memory_gib * GIB)
    actors = _capped(pack(view, cpus, memory_bytes), cpus, view, cpus_max)
    return _Option(profile, cpus, memory_bytes, actors)


def _capped(held: int, cpus: float, view: ClusterView, cpus_max: float) -> int:
    """Cut the number of workers to `cpus_max` or, for an autoscaler to fill, raise it."""
    if not cpus_max:
        return held
    allowed = math.floor(cpus_max / cpus + 1e-9)
    return max(held, allowed) if view.may_grow and cpus_max > view.cpus else min(held, allowed)


def _squeezed(view: ClusterView, smallest: _Option, cpus_max: float) -> _Option:
    """The smallest profile with as little memory as its CPUs leave it; at least one worker."""
    nodes = [node for node in view.alive if node.cpus >= smallest.cpus]
    if not nodes:
        # A node of half a CPU, or none yet: ask for one worker and let Ray say what is missing.
        cpus = min(smallest.cpus, max((n.cpus for n in view.alive), default=0) or smallest.cpus)
        return _Option(smallest.profile, cpus, 0, 1)
    shares = [node.memory_bytes // math.floor(node.cpus / smallest.cpus) for node in nodes]
    fitting = [share for share in shares if share >= WORKER_MEMORY_MIN]
    memory_bytes = min(fitting, default=min(WORKER_MEMORY_MIN, max(n.memory_bytes for n in nodes)))
    memory_bytes = min(memory_bytes, smallest.memory_bytes)
    actors = pack(view, smallest.cpus, memory_bytes)
    actors = max(1, _capped(actors, smallest.cpus, view, cpus_max))
    return _Option(smallest.profile, smallest.cpus, memory_bytes, actors)


def _local_option(view: ClusterView, profiles: Mapping[str, tuple[float, float]]) -> _Option:
    profile = min(profiles, key=lambda name: profiles[name])
    node = max(view.alive, key=lambda node: node.cpus, default=NodeView("", 1, 0))
    memory_bytes = min(node.memory_bytes, int(profiles[profile][1] * GIB))
    return _Option(profile, max(1, min(4, node.cpus)), memory_bytes, 1)


def _actors(work: Workload, option: _Option, asked: int, reasons: list[str]) -> int:
    if asked:
        if asked > option.actors:
            reasons.append(f"{asked} workers were asked for; there is room for {option.actors}.")
        return min(asked, option.actors)
    by_bytes = max(1, math.ceil(work.compressed_bytes / ACTOR_BYTES_MIN))
    wanted = min(option.actors, work.units, by_bytes)
    if wanted == option.actors:
        reasons.append(
            f"{_count(wanted, 'worker')} of {_count(option.cpus, 'CPU')} fill what may be used."
        )
    elif wanted == work.units:
        reasons.append(f"The work has {_count(work.units, 'piece')}.")
    else:
        reasons.append(
            f"{_size(work.compressed_bytes)} are not worth more workers "
            f"({_size(ACTOR_BYTES_MIN)} each at least)."
        )
    return wanted


def _allocation(
    work: Workload,
    option: _Option,
    actors: int,
    depth: int,
    executor: Literal["local", "ray"],
    reasons: list[str],
) -> Allocation:
    by_share = math.ceil(work.compressed_bytes / (actors * depth * ROUNDS_MIN))
    by_memory = work.unit_bytes_max
    if option.memory_bytes and not work.in_parts:
        by_memory = int(option.memory_bytes * BATCH_MEMORY_SHARE / INFLATION / depth)
    ceiling = max(1, min(work.unit_bytes_max, by_memory))
    batch_bytes = min(ceiling, max(by_share, BATCH_BYTES_MIN))
    if batch_bytes == by_memory < work.unit_bytes_max:
        reasons.append("The memory of a worker bounds the size of a unit.")
    elif batch_bytes == by_share:
        reasons.append(
            f"Units are small enough for {ROUNDS_MIN} rounds, so that the tail is short."
        )
    return Allocation(
        profile=option.profile,
        cpus_per_actor=option.cpus,
        memory_bytes_per_actor=option.memory_bytes,
        actors=actors,
        depth=depth,
        batch_bytes=batch_bytes,
        executor=executor,
        reasons=tuple(reasons),
    )


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:,g} {noun}s"


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    raise AssertionError("GiB returns")
