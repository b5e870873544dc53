"""How many workers of which size a plan gets. Pure: work and cluster in, decision and reasons out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.dataset import USUAL_COST, Cost
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
# With 0.13 s of work each (4 MiB of 1m klines) it still ends sooner with one more worker, since its
# start runs beside the others' work.
ACTOR_WORK_S_MIN = 4 * USUAL_COST.cpu_s_per_mib

# Rounds that each call slot of a pool goes through. The last round is the one in which slots idle:
# with four, an eighth of the time at worst, half of that on average.
ROUNDS_MIN = 4

# Smaller units are more overhead than work (1 MiB: 35 ms) and make small files.
BATCH_BYTES_MIN = MIB

# A part of the worker's memory is the interpreter, its libraries and Ray: about 400 MiB of 2 GiB.
BATCH_MEMORY_SHARE = 0.5

# A data set whose bytes cost twice the usual, or half of it, gets units of half the size, or of twice:
# then a unit takes as long, and a lost one costs as much, whatever it is of.
COMPLEXITY_STEP = 2.0

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
    cost: What a compressed byte takes of a worker.
    """

    kind: Kind
    files: int
    compressed_bytes: int
    units: int
    unit_bytes_max: int = 32 * MIB
    in_parts: bool = False
    cost: Cost = USUAL_COST

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all of it."""
        return self.compressed_bytes / MIB * self.cost.cpu_s_per_mib

    @property
    def batch_factor(self) -> float:
        """What the usual size of a unit is multiplied by: 2, 1 or 0.5."""
        times = self.cost.cpu_s_per_mib / USUAL_COST.cpu_s_per_mib
        if times >= COMPLEXITY_STEP:
            return 0.5
        return 2.0 if times <= 1 / COMPLEXITY_STEP else 1.0


@dataclass(frozen=True)
class Allocation:
    """A pool for a workload.

    depth: Calls at once in one worker: one for each of its CPUs, and one that waits for the network
        meanwhile. So at most `cpus_per_actor` of them may compute at once.
    batch_bytes: Compressed bytes that a unit of work should hold.
    actors_most: Workers that the pool may grow to while it works; it shrinks then, too. 0: it keeps its
        size.
    units: Units that the work makes at this size, about.
    reasons: Why it is so, in sentences. rules: The same, each a word for a label of a metric.
    """

    profile: str
    cpus_per_actor: float
    memory_bytes_per_actor: int
    actors: int
    depth: int
    batch_bytes: int
    executor: Literal["local", "ray"]
    actors_most: int
    units: int
    reasons: tuple[str, ...]
    rules: tuple[str, ...]

    def spec(self, *, attempts_max: int = 3, deadline_s: float = 1800.0) -> PoolSpec:
        """The pool to ask an executor for."""
        return PoolSpec(
            actors=self.actors,
            cpus=self.cpus_per_actor,
            memory_bytes=self.memory_bytes_per_actor,
            depth=self.depth,
            attempts_max=attempts_max,
            deadline_s=deadline_s,
            actors_most=self.actors_most,
            tasks=self.units,
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
        grows = (
            (f"It may grow to {_count(self.actors_most, 'worker')} while it works.",)
            if self.actors_most > self.actors
            else ()
        )
        return (head, *self.reasons, *grows)


# Why, in sentences, by rules: words for a label of a metric.
Reasons = dict[str, str]


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
    headroom_cpus: float = 0,
    node_label: str = "",
    elastic: bool = False,
    profile_of: Mapping[Kind, str] = PROFILE_OF_KIND,
) -> Allocation:
    """Size a pool for `work` on the cluster of `view`.

    profiles: CPUs and GiB of memory of one worker, by name.
    profile, actors: What a person chose instead; empty and 0: choose here. More actors than the
        cluster holds are cut to those it holds.
    cpus_max: CPUs the pool may use. Below what there is, it leaves room for others; above, on a
        cluster that may grow, it asks an autoscaler for the rest. 0: what there is.
    local_bytes_max: Plans of fewer compressed bytes run without Ray.

    headroom_cpus: CPUs that the pool leaves free on a cluster that others use too, so that what they
        start always finds a place; where that costs more than a tenth of the CPUs, it is not done.
        What this package runs beside a pool (committers, budgets) reserves none and never waits.
    node_label: Label of nodes that names the profile they are for; others do not count.
    elastic: On a cluster that others use too, the pool may grow while it works.
    profile_of: The profile of each kind of work.

    Raises InvalidError where `profile` is unknown or fits no node.
    """
    reasons: Reasons = {}
    if work.units == 0 or work.compressed_bytes < local_bytes_max:
        chosen = _local_option(view, profiles)
        reasons["local"] = (
            f"{_size(work.compressed_bytes)} in {_count(work.files, 'file')} are done sooner in "
            f"this process than Ray starts (limit {_size(local_bytes_max)})."
        )
        depth = 2 if chosen.cpus_used <= 1 else math.floor(chosen.cpus_used) + 1
        return _allocation(work, chosen, 1, 0, depth, "local", reasons)
    sized = _Sizes(view, profiles, cpus_max, node_label)
    chosen = _choose(work.kind, sized, profile or profile_of[work.kind], bool(profile), reasons)
    chosen = _leave_headroom(chosen, view, cpus_max, headroom_cpus, reasons)
    wanted = _actors(work, chosen, actors, reasons)
    most = _actors_most(work, chosen, wanted, actors, cpus_max) if elastic and view.may_grow else 0
    depth = math.floor(max(1.0, chosen.cpus)) + 1
    return _allocation(work, chosen, wanted, most, depth, "ray", reasons)


def pack(view: ClusterView, cpus: float, memory_bytes: int) -> int:
    """How many workers of this size the nodes hold, each node counted by itself."""
    return sum(_pack_node(node, cpus, memory_bytes) for node in view.alive)


def _pack_node(node: NodeView, cpus: float, memory_bytes: int) -> int:
    by_cpu = math.floor(node.cpus / cpus + 1e-9)
    return min(by_cpu, node.memory_bytes // memory_bytes) if memory_bytes else by_cpu


@dataclass(frozen=True)
class _Sizes:
    """What the cluster holds of each profile."""

    view: ClusterView
    profiles: Mapping[str, tuple[float, float]]
    cpus_max: float
    node_label: str

    def nodes_for(self, profile: str) -> ClusterView:
        return self.view.labelled({self.node_label: profile}) if self.node_label else self.view

    def option(self, profile: str) -> _Option:
        cpus, memory_gib = self.profiles[profile]
        memory_bytes = int(memory_gib * GIB)
        held = pack(self.nodes_for(profile), cpus, memory_bytes)
        return _Option(profile, cpus, memory_bytes, self._capped(held, cpus))

    def squeezed(self, profile: str) -> _Option:
        """A profile with as little memory as its CPUs leave it; at least one worker."""
        cpus = self.profiles[profile][0]
        memory_max = int(self.profiles[profile][1] * GIB)
        view = self.nodes_for(profile)
        nodes = [node for node in view.alive if node.cpus >= cpus]
        if not nodes:
            # A node of half a CPU, or none yet: ask for one worker and let Ray say what is missing.
            cpus = min(cpus, max((n.cpus for n in view.alive), default=0) or cpus)
            return _Option(profile, cpus, 0, 1)
        shares = [node.memory_bytes // math.floor(node.cpus / cpus) for node in nodes]
        fitting = [share for share in shares if share >= WORKER_MEMORY_MIN]
        most = max(node.memory_bytes for node in nodes)
        memory_bytes = min(min(fitting, default=min(WORKER_MEMORY_MIN, most)), memory_max)
        actors = max(1, self._capped(pack(view, cpus, memory_bytes), cpus))
        return _Option(profile, cpus, memory_bytes, actors)

    def _capped(self, held: int, cpus: float) -> int:
        """Cut the number of workers to `cpus_max` or, for an autoscaler to fill, raise it."""
        if not self.cpus_max:
            return held
        allowed = math.floor(self.cpus_max / cpus + 1e-9)
        grows = self.view.may_grow and self.cpus_max > self.view.cpus
        return max(held, allowed) if grows else min(held, allowed)


def _choose(kind: Kind, sizes: _Sizes, usual: str, asked: bool, reasons: Reasons) -> _Option:
    """The profile to take. usual: Of this kind of work, or the one that was asked for."""
    profiles = sizes.profiles
    if usual not in profiles:
        raise InvalidError(f"no profile {usual!r}", f"one of {', '.join(profiles)}")
    if asked:
        option = sizes.option(usual)
        if not option.actors:
            raise InvalidError(
                f"profile {usual} ({option.cpus:g} CPUs, {option.memory_bytes / GIB:g} GiB) "
                f"fits no node; the cluster has {sizes.nodes_for(usual)}",
                "choose a smaller profile, or let an autoscaler bring nodes (compute.cpus_max)",
            )
        reasons["profile_asked"] = f"Profile {usual} was asked for."
        return option
    smaller = sorted(
        (name for name, size in profiles.items() if size <= profiles[usual]),
        key=lambda name: profiles[name],
        reverse=True,
    )
    options = [sizes.option(name) for name in smaller]
    options.append(sizes.squeezed(smaller[-1]))
    best = max(option.cpus_used for option in options)
    pair = min(2, max(option.actors for option in options))
    good = [
        option
        for option in options
        if option.actors >= pair and option.cpus_used >= (1 - IDLE_SHARE_MAX) * best
    ]
    chosen = good[0] if good else max(options, key=lambda option: option.cpus_used)
    reasons.update(_why(kind, usual, options[0], chosen))
    return chosen


def _why(kind: Kind, usual: str, first: _Option, chosen: _Option) -> Reasons:
    found = {"profile_of_kind": f"Work of kind {kind} takes profile {usual}."}
    if chosen.profile != usual:
        if first.actors == 0:
            cause = "fits no node"
        elif first.actors == 1:
            cause = "would give one worker alone, and several small ones are faster than it"
        else:
            cause = f"would use {first.cpus_used:g} CPUs where {chosen.cpus_used:g} can be used"
        found["profile_smaller"] = f"{usual.capitalize()} {cause}, so {chosen.profile}."
    if chosen.memory_bytes < first.memory_bytes * chosen.cpus / first.cpus:
        found["memory_short"] = (
            f"The nodes have less memory than the profile asks for: {_size(chosen.memory_bytes)} "
            "a worker, and smaller units."
        )
    return found


def _leave_headroom(
    option: _Option, view: ClusterView, cpus_max: float, headroom_cpus: float, reasons: Reasons
) -> _Option:
    """One worker fewer, or as many as it takes, so that `headroom_cpus` stay free."""
    asks_for_more = cpus_max > view.cpus
    if not view.may_grow or asks_for_more or not option.cpus:
        return option
    missing = headroom_cpus - (view.cpus - option.cpus_used)
    fewer = math.ceil(missing / option.cpus - 1e-9)
    if fewer <= 0 or fewer > IDLE_SHARE_MAX * option.actors:
        return option
    reasons["headroom"] = (
        f"{_count(fewer, 'worker')} fewer than there is room for, so that what others start finds "
        f"{_count(headroom_cpus, 'CPU')} free."
    )
    return replace(option, actors=option.actors - fewer)


def _local_option(view: ClusterView, profiles: Mapping[str, tuple[float, float]]) -> _Option:
    profile = min(profiles, key=lambda name: profiles[name])
    node = max(view.alive, key=lambda node: node.cpus, default=NodeView("", 1, 0))
    memory_bytes = min(node.memory_bytes, int(profiles[profile][1] * GIB))
    return _Option(profile, max(1, min(4, node.cpus)), memory_bytes, 1)


def _actors(work: Workload, option: _Option, asked: int, reasons: Reasons) -> int:
    if asked:
        if asked > option.actors:
            reasons["workers_asked"] = (
                f"{asked} workers were asked for; there is room for {option.actors}."
            )
        return min(asked, option.actors)
    wanted = min(option.actors, _actors_useful(work))
    if wanted == option.actors:
        reasons["workers_fill"] = (
            f"{_count(wanted, 'worker')} of {_count(option.cpus, 'CPU')} fill what may be used."
        )
    elif wanted == work.units:
        reasons["workers_pieces"] = f"The work has {_count(work.units, 'piece')}."
    else:
        reasons["workers_worth"] = (
            f"{_size(work.compressed_bytes)}, about {work.cpu_s:.2g} s of a CPU, are not worth more "
            f"workers ({ACTOR_WORK_S_MIN:.2g} s each at least)."
        )
    return wanted


def _actors_useful(work: Workload) -> int:
    by_work = max(1, math.ceil(work.cpu_s / ACTOR_WORK_S_MIN - 1e-9))
    return min(work.units, by_work)


def _actors_most(work: Workload, option: _Option, actors: int, asked: int, cpus_max: float) -> int:
    """What the pool may grow to, should nodes come or others leave them."""
    most = asked or _actors_useful(work)
    if cpus_max and not asked:
        most = min(most, math.floor(cpus_max / option.cpus + 1e-9))
    return max(actors, most)


def _allocation(
    work: Workload,
    option: _Option,
    actors: int,
    actors_most: int,
    depth: int,
    executor: Literal["local", "ray"],
    reasons: Reasons,
) -> Allocation:
    factor = work.batch_factor
    by_share = math.ceil(work.compressed_bytes / (actors * depth * ROUNDS_MIN) * factor)
    by_limit = max(1, int(work.unit_bytes_max * min(1.0, factor)))
    by_memory = work.unit_bytes_max
    if option.memory_bytes and not work.in_parts:
        share = option.memory_bytes * BATCH_MEMORY_SHARE / depth
        by_memory = int(share / work.cost.memory_per_byte)
    ceiling = max(1, min(by_limit, by_memory))
    batch_bytes = min(ceiling, max(by_share, int(BATCH_BYTES_MIN * factor)))
    if batch_bytes == by_memory < by_limit:
        reasons["unit_memory"] = "The memory of a worker bounds the size of a unit."
    elif batch_bytes == by_share:
        reasons["unit_rounds"] = (
            f"Units are small enough for {ROUNDS_MIN / factor:g} rounds, so that the tail is short."
        )
    if factor != 1:
        word = "Half-size" if factor < 1 else "Double-size"
        reasons["unit_half" if factor < 1 else "unit_double"] = (
            f"{word} units: a byte costs {work.cost.cpu_s_per_mib / USUAL_COST.cpu_s_per_mib:.2g} "
            "times what one of 1m klines does."
        )
    return Allocation(
        profile=option.profile,
        cpus_per_actor=option.cpus,
        memory_bytes_per_actor=option.memory_bytes,
        actors=actors,
        depth=depth,
        batch_bytes=batch_bytes,
        executor=executor,
        actors_most=actors_most,
        units=max(1, math.ceil(work.compressed_bytes / batch_bytes)) if work.units else 0,
        reasons=tuple(reasons.values()),
        rules=tuple(reasons),
    )


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:,g} {noun}s"


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    raise AssertionError("GiB returns")
