"""What a build of derived tables did, and who is told meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from lakehouse_ray.gold.build import UnitResult
from lakehouse_ray.gold.plan import Lost, ProductPlan
from lakehouse_ray.pipeline.report import EXAMPLES_MAX
from lakehouse_ray.runtime.allocator import Allocation


@dataclass
class ProductReport:
    """Counts of one product.

    units: All that were asked for. current: Those that needed nothing.
    built: Those whose rows were made anew. unchanged: Those whose files had changed and whose rows
        had not. failed: Those whose rows of before stay; the next run tries again.
    rows: Of the units built.
    rows_read: Of their inputs.
    """

    product: str
    units: int = 0
    current: int = 0
    built: int = 0
    unchanged: int = 0
    failed: int = 0
    rows: int = 0
    rows_read: int = 0


@dataclass
class BuildReport:
    """Counts of one run.

    conflicts: Tasks done anew, since another run came first.
    seconds: The whole run. work_seconds: From the first task accepted to the last commit.
    worker_rss_bytes_max, driver_rss_bytes_max: Most memory one of them has had.
    """

    run_id: str = ""
    products: dict[str, ProductReport] = field(default_factory=dict)
    seconds: float = 0.0
    start_seconds: float = 0.0
    work_seconds: float = 0.0
    driver_rss_bytes_max: int = 0
    worker_rss_bytes_max: int = 0
    commits: int = 0
    conflicts: int = 0
    executor: str = ""
    actors: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)

    @property
    def partial(self) -> bool:
        """Something asked for was not built."""
        return self.total("failed") > 0

    def total(self, name: str) -> int:
        return sum(getattr(product, name) for product in self.products.values())

    def planned(self, plan: ProductPlan) -> None:
        """Take in what a product needs, before it is built; planned again, the last plan counts."""
        name = plan.product.name
        report = self.products.setdefault(name, ProductReport(name))
        report.units = plan.units
        report.current = plan.current

    def count(self, product: str, result: UnitResult) -> None:
        """Take in what became of a unit, once that is committed."""
        report = self.products[product]
        if result.state == "built":
            report.built += 1
            report.rows += result.rows
            report.rows_read += result.item.rows_read
        elif result.state == "unchanged":
            report.unchanged += 1
        else:
            report.failed += 1
            self.note(result.reason, f"{product} {result.item.unit}", result.detail)

    def lose(self, product: str, lost: Lost) -> None:
        """Take in a unit that was not even tried."""
        self.products[product].failed += 1
        self.note(lost.error.reason, f"{product} {lost.unit}", lost.error.detail)

    def note(self, reason: str, unit: str, detail: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append({"reason": reason, "unit": unit, "detail": detail[:300]})

    def as_dict(self) -> dict[str, object]:
        """For `--json`: stable names."""
        return {
            "run_id": self.run_id,
            "products": [vars(product) for product in self.products.values()],
            **{
                name: self.total(name)
                for name in ("units", "current", "built", "unchanged", "failed", "rows")
            },
            **{
                name: round(getattr(self, name), 3)
                for name in ("seconds", "start_seconds", "work_seconds")
            },
            "driver_rss_bytes_max": self.driver_rss_bytes_max,
            "worker_rss_bytes_max": self.worker_rss_bytes_max,
            "commits": self.commits,
            "conflicts": self.conflicts,
            "executor": self.executor,
            "actors": self.actors,
            "reasons": dict(self.reasons),
            "examples": self.examples,
        }


class BuildObserver(Protocol):
    """Who is told how a run goes on. Calls come from the run's threads, one at a time."""

    def allocated(self, units: int, allocation: Allocation) -> None:
        """So many units are to be built, with these workers."""

    def started(self, seconds: float) -> None:
        """Workers are up."""

    def product(self, plan: ProductPlan) -> None:
        """This product is built now."""

    def advanced(self, report: BuildReport, units: int) -> None:
        """`units` more are done with."""


class SilentBuild:
    """Tells nobody."""

    def allocated(self, units: int, allocation: Allocation) -> None: ...

    def started(self, seconds: float) -> None: ...

    def product(self, plan: ProductPlan) -> None: ...

    def advanced(self, report: BuildReport, units: int) -> None: ...
