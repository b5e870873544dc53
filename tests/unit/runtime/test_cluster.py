from __future__ import annotations

from lakehouse_ray.runtime.cluster import ClusterView, NodeView, memory_that_fits, this_machine

VIEW = ClusterView(
    (
        NodeView("a", 2, 4 << 30, ip="10.0.0.1"),
        NodeView("b", 8, 2 << 30, ip="10.0.0.2"),
        NodeView("c", 64, 256 << 30, alive=False),
    )
)


def test_sums_count_the_living_nodes() -> None:
    assert (VIEW.cpus, VIEW.memory_bytes, len(VIEW.alive)) == (10, 6 << 30, 2)


def test_a_view_names_its_largest_nodes_first() -> None:
    assert str(VIEW) == (
        "2 nodes with 10 CPUs in all (10.0.0.2: 8 CPUs, 2.0 GiB; 10.0.0.1: 2 CPUs, 4.0 GiB)"
    )


def test_memory_is_cut_to_what_a_node_with_the_cpus_has() -> None:
    assert memory_that_fits(VIEW, 4, 8 << 30) == 2 << 30
    assert memory_that_fits(VIEW, 1, 3 << 30) == 3 << 30


def test_no_memory_fits_where_no_node_has_the_cpus() -> None:
    assert memory_that_fits(VIEW, 16, 1 << 30) is None


def test_this_machine_is_a_cluster_of_one() -> None:
    view = this_machine()
    assert view.cpus >= 1
    assert view.memory_bytes > 0
    assert this_machine(cpus=7).cpus == 7
