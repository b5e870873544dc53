from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.dataset import Cost
from lakehouse_ray.runtime.allocator import (
    GIB,
    MIB,
    PROFILE_OF_KIND,
    Allocation,
    Kind,
    Workload,
    allocate,
    pack,
)
from lakehouse_ray.runtime.cluster import ClusterView, NodeView

PROFILES = {"small": (1.0, 2.0), "medium": (2.0, 4.0), "large": (4.0, 8.0), "xlarge": (8.0, 16.0)}


def cluster(*nodes: tuple[float, float]) -> ClusterView:
    """Nodes of (CPUs, GiB)."""
    return ClusterView(
        tuple(NodeView(str(n), cpus, int(gib * GIB)) for n, (cpus, gib) in enumerate(nodes))
    )


def growing(*nodes: tuple[float, float]) -> ClusterView:
    """The same with an autoscaler."""
    return replace(cluster(*nodes), may_grow=True)


def work(kind: Kind = "ingest", size_bytes: int = 100 * GIB, units: int = 100_000) -> Workload:
    return Workload(kind, files=units, compressed_bytes=size_bytes, units=units)


def shape(found: Allocation) -> tuple[str, int, float]:
    return found.profile, found.actors, found.cpus_per_actor


def test_one_cpu_gets_one_worker_that_runs_two_units_at_once() -> None:
    found = allocate(work(), cluster((1, 4)), PROFILES)
    assert shape(found) == ("small", 1, 1)
    assert found.depth == 2


def test_two_cpus_get_two_small_workers_rather_than_one_medium() -> None:
    found = allocate(work(), cluster((2, 16)), PROFILES)
    assert shape(found) == ("small", 2, 1)
    assert any("one worker alone" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ingest", ("medium", 32, 2)),
        ("process", ("large", 16, 4)),
        ("analytics", ("xlarge", 8, 8)),
        ("other", ("small", 64, 1)),
    ],
)
def test_sixty_four_cpus_get_the_profile_of_the_kind_of_work(
    kind: Kind, expected: tuple[str, int, float]
) -> None:
    assert shape(allocate(work(kind), cluster((64, 256)), PROFILES)) == expected


def test_a_thousand_cpus_on_unequal_nodes_are_all_used() -> None:
    nodes = [(16.0, 64.0)] * 60 + [(8.0, 32.0)] * 5
    found = allocate(work(size_bytes=10_000 * GIB), cluster(*nodes), PROFILES)
    assert shape(found) == ("medium", 500, 2)


def test_a_profile_that_would_leave_cpus_idle_is_stepped_down() -> None:
    found = allocate(work(), cluster((3, 16), (3, 16)), PROFILES)
    assert shape(found) == ("small", 6, 1)
    assert any("would use 4 CPUs where 6 can be used" in reason for reason in found.reasons)


def test_workers_are_counted_node_by_node_and_not_by_the_sum() -> None:
    view = cluster((7, 64), (7, 64), (7, 64))
    assert pack(view, cpus=4, memory_bytes=8 * GIB) == 3


def test_dead_nodes_hold_nothing() -> None:
    dead = NodeView("dead", 64, 256 * GIB, alive=False)
    view = ClusterView((dead, *cluster((2, 16)).nodes))
    assert allocate(work(), view, PROFILES).actors == 2


def test_little_memory_gives_smaller_workers_with_smaller_units() -> None:
    roomy = allocate(work(), cluster((2, 16)), PROFILES)
    found = allocate(work(), cluster((2, 1.5)), PROFILES)
    assert found.actors * found.memory_bytes_per_actor <= 1.5 * GIB
    assert found.actors == 2
    assert found.batch_bytes < roomy.batch_bytes
    assert any("less memory" in reason for reason in found.reasons)


def test_a_tiny_plan_runs_in_this_process() -> None:
    found = allocate(
        work(size_bytes=3 * MIB), cluster((64, 256)), PROFILES, local_bytes_max=4 * MIB
    )
    assert (found.executor, found.actors) == ("local", 1)


def test_nothing_to_do_needs_no_ray() -> None:
    found = allocate(work(size_bytes=0, units=0), cluster((2, 16)), PROFILES)
    assert found.executor == "local"


def test_a_small_plan_gets_no_more_workers_than_pay_off() -> None:
    found = allocate(work(size_bytes=9 * MIB), cluster((64, 256)), PROFILES)
    assert found.actors == 3


def test_a_profile_that_was_asked_for_is_taken() -> None:
    found = allocate(work(), cluster((64, 256)), PROFILES, profile="xlarge")
    assert shape(found) == ("xlarge", 8, 8)


def test_a_profile_that_fits_no_node_is_refused_when_it_was_asked_for() -> None:
    with pytest.raises(InvalidError, match="fits no node; the cluster has 1 node"):
        allocate(work(), cluster((2, 16)), PROFILES, profile="large")


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(InvalidError, match="no profile 'huge'"):
        allocate(work(), cluster((2, 16)), PROFILES, profile="huge")


def test_more_workers_than_the_cluster_holds_are_cut_and_it_says_so() -> None:
    found = allocate(work(), cluster((4, 16)), PROFILES, actors=10)
    assert found.actors == 2
    assert "10 workers were asked for; there is room for 2." in found.reasons


def test_an_autoscaler_is_asked_for_more_than_there_is() -> None:
    found = allocate(work(), growing((2, 16)), PROFILES, cpus_max=64)
    assert shape(found) == ("medium", 32, 2)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ingest", ("medium", 32, 2)),
        ("process", ("large", 16, 4)),
        ("analytics", ("xlarge", 8, 8)),
        ("other", ("small", 64, 1)),
    ],
)
def test_a_cluster_of_a_head_without_cpus_grows_by_the_profile_of_the_work(
    kind: Kind, expected: tuple[str, int, float]
) -> None:
    found = allocate(work(kind), growing((0, 8)), PROFILES, cpus_max=64)
    assert shape(found) == expected
    assert found.memory_bytes_per_actor == PROFILES[found.profile][1] * GIB


def test_a_machine_without_an_autoscaler_is_asked_for_what_it_has() -> None:
    assert shape(allocate(work(), cluster((4, 16)), PROFILES, cpus_max=64)) == ("medium", 2, 2)


def test_cpus_max_leaves_room_for_others() -> None:
    found = allocate(work(), cluster((64, 256)), PROFILES, cpus_max=10)
    assert found.actors * found.cpus_per_actor == 10


def test_units_shrink_with_the_share_of_a_worker() -> None:
    found = allocate(work(size_bytes=320 * MIB), cluster((2, 16)), PROFILES)
    assert found.batch_bytes == 20 * MIB  # two workers, two slots each, four rounds


def test_the_plan_says_what_was_decided_and_why() -> None:
    first, *reasons = allocate(work(), cluster((2, 16)), PROFILES).explain()
    assert first == (
        "2 workers on Ray, profile small (1 CPU and 2 GiB each), 2 units at once in each, "
        "units of about 32 MiB."
    )
    assert reasons[0] == "Work of kind ingest takes profile medium."


def test_each_reason_has_a_word_for_a_metric() -> None:
    found = allocate(work(size_bytes=320 * MIB), cluster((2, 16)), PROFILES)
    assert found.rules == ("profile_of_kind", "profile_smaller", "workers_fill", "unit_rounds")
    assert len(found.reasons) == len(found.rules)
    dear = replace(work(size_bytes=320 * MIB), cost=Cost(0.066, 12))
    asked = allocate(dear, cluster((2, 16)), PROFILES, profile="small", actors=9)
    assert asked.rules == ("profile_asked", "workers_asked", "unit_rounds", "unit_half")
    here = allocate(work(size_bytes=MIB), cluster((2, 16)), PROFILES, local_bytes_max=GIB)
    assert here.rules[0] == "local"


@pytest.mark.parametrize(
    ("cpus", "nodes_", "expected"),
    [
        (1, [(1, 4)], ("small", 1, 1)),
        (2, [(2, 8)], ("small", 2, 1)),
        (64, [(64, 256)], ("medium", 31, 2)),
        (1000, [(8, 32)] * 125, ("medium", 499, 2)),
    ],
)
def test_pools_leave_a_cpu_to_others_where_it_is_less_than_a_tenth(
    cpus: int, nodes_: list[tuple[float, float]], expected: tuple[str, int, float]
) -> None:
    big = work(size_bytes=10_000 * GIB)
    found = allocate(big, growing(*nodes_), PROFILES, headroom_cpus=1)
    assert shape(found) == expected
    alone = allocate(big, cluster(*nodes_), PROFILES, headroom_cpus=1)
    assert alone.actors * alone.cpus_per_actor == cpus


def test_no_headroom_where_an_autoscaler_brings_nodes() -> None:
    found = allocate(work(), growing((32, 128)), PROFILES, cpus_max=64, headroom_cpus=1)
    assert shape(found) == ("medium", 32, 2)


@pytest.mark.parametrize(
    ("cost", "batch_mib", "said"),
    [
        (Cost(0.033, 12), 20, None),
        (Cost(0.066, 12), 10, "Half-size"),
        (Cost(0.5, 12), 10, "Half-size"),
        (Cost(0.0165, 12), 32, "Double-size"),
    ],
)
def test_units_are_halved_and_doubled_by_what_a_byte_costs(
    cost: Cost, batch_mib: int, said: str | None
) -> None:
    load = replace(work(size_bytes=320 * MIB), cost=cost)
    found = allocate(load, cluster((2, 16)), PROFILES)
    assert found.batch_bytes == batch_mib * MIB
    assert any(reason.startswith(said or "?") for reason in found.reasons) == bool(said)


def test_costly_bytes_are_worth_more_workers() -> None:
    cheap = work(size_bytes=9 * MIB)
    costly = replace(cheap, cost=Cost(0.33, 12))
    assert allocate(cheap, cluster((64, 256)), PROFILES).actors == 3
    assert allocate(costly, cluster((64, 256)), PROFILES).actors == 23


def test_bytes_that_need_much_memory_make_small_units() -> None:
    greedy = replace(work(), cost=Cost(0.033, 100))
    found = allocate(greedy, cluster((64, 256)), PROFILES)
    assert found.batch_bytes * found.depth * 100 <= 4 * GIB / 2
    assert "The memory of a worker bounds the size of a unit." in found.reasons


def labelled(**profiles: int) -> ClusterView:
    """So many nodes of 8 CPUs for each profile."""
    return ClusterView(
        tuple(
            NodeView(f"{profile}{n}", 8, 32 * GIB, labels={"for": profile})
            for profile, count in profiles.items()
            for n in range(count)
        ),
        may_grow=True,
    )


def test_only_nodes_that_are_labelled_for_the_profile_count() -> None:
    found = allocate(work(), labelled(medium=2, xlarge=5), PROFILES, node_label="for")
    assert shape(found) == ("medium", 8, 2)
    assert allocate(work(), labelled(medium=2, xlarge=5), PROFILES).actors == 28


def test_without_a_labelled_node_an_autoscaler_is_asked() -> None:
    view = labelled(xlarge=2)
    found = allocate(work(), view, PROFILES, node_label="for", cpus_max=24)
    assert shape(found) == ("medium", 12, 2)


def test_a_pool_may_grow_to_what_the_work_can_use_on_a_shared_cluster_alone() -> None:
    load = work(size_bytes=400 * MIB, units=90)
    assert allocate(load, growing((8, 32)), PROFILES, elastic=True).actors_most == 90
    assert allocate(load, growing((8, 32)), PROFILES, elastic=True, cpus_max=20).actors_most == 10
    assert allocate(load, growing((8, 32)), PROFILES, elastic=True, actors=6).actors_most == 6
    assert allocate(load, growing((8, 32)), PROFILES).actors_most == 0
    assert allocate(load, cluster((8, 32)), PROFILES, elastic=True).actors_most == 0


def test_a_plan_says_how_far_the_pool_may_grow() -> None:
    found = allocate(work(size_bytes=400 * MIB, units=90), growing((8, 32)), PROFILES, elastic=True)
    assert found.explain()[-1] == "It may grow to 90 workers while it works."


def test_profiles_of_work_may_be_chosen() -> None:
    chosen = {**PROFILE_OF_KIND, "ingest": "large"}
    assert shape(allocate(work(), cluster((64, 256)), PROFILES, profile_of=chosen)) == (
        "large", 16, 4,
    )  # fmt: skip


def test_the_pool_is_told_how_many_tasks_there_will_be() -> None:
    found = allocate(work(size_bytes=320 * MIB), cluster((2, 16)), PROFILES)
    assert found.spec().tasks == 16


kinds = st.sampled_from(list(PROFILE_OF_KIND))
sizes = st.integers(0, 1 << 50)
nodes = st.tuples(st.integers(0, 128), st.floats(0.25, 1024))
clusters = st.lists(nodes, min_size=1, max_size=12).map(lambda found: cluster(*found))
with_cpus = clusters.filter(lambda view: view.cpus > 0)
workloads = st.builds(work, kinds, sizes, st.integers(1, 1_000_000))


@given(workloads, with_cpus)
def test_the_nodes_hold_what_is_allocated(load: Workload, view: ClusterView) -> None:
    found = allocate(load, view, PROFILES)
    assert found.actors <= pack(view, found.cpus_per_actor, found.memory_bytes_per_actor)
    assert found.actors * found.memory_bytes_per_actor <= view.memory_bytes
    assert found.actors * found.cpus_per_actor <= view.cpus


@given(workloads, clusters, st.integers(0, 2000))
def test_there_is_a_worker_and_none_without_a_unit(
    load: Workload, view: ClusterView, cpus_max: int
) -> None:
    found = allocate(load, view, PROFILES, cpus_max=cpus_max)
    assert 1 <= found.actors <= load.units
    assert found.depth >= 2


@given(workloads, with_cpus)
def test_units_fit_the_workers_memory_and_the_limit(load: Workload, view: ClusterView) -> None:
    found = allocate(load, view, PROFILES)
    assert 1 <= found.batch_bytes <= load.unit_bytes_max
    at_once = found.batch_bytes * found.depth
    assert at_once * 12 <= max(found.memory_bytes_per_actor, 12 * found.depth)


@given(kinds, st.integers(1, 1500))
def test_more_cpus_never_mean_fewer_at_work(kind: Kind, cpus: int) -> None:
    def used(count: int) -> float:
        found = allocate(work(kind, size_bytes=1 << 50), cluster((count, 4.0 * count)), PROFILES)
        return found.actors * found.cpus_per_actor

    assert used(cpus) <= used(cpus + 1)


@given(workloads, nodes.filter(lambda node: node[0] > 0), st.integers(1, 20))
def test_more_nodes_never_mean_fewer_cpus_at_work(
    load: Workload, node: tuple[int, float], count: int
) -> None:
    def used(nodes: int) -> float:
        found = allocate(
            Workload(load.kind, 10**6, 1 << 50, 10**6), cluster(*[node] * nodes), PROFILES
        )
        return found.actors * found.cpus_per_actor

    assert used(count) <= used(count + 1)


@given(workloads, with_cpus)
def test_an_allocation_is_a_pool(load: Workload, view: ClusterView) -> None:
    found = allocate(load, view, PROFILES)
    spec = found.spec(attempts_max=2, deadline_s=5)
    assert spec.in_flight_max == found.actors * found.depth
    assert all(sentence.endswith(".") for sentence in found.explain())
