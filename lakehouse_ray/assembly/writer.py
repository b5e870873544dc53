"""From settings to the components that write: source, store, catalog, committers, HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from lakehouse_ray.assembly.stores import catalog_access, s3_access
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.model.alerts import Thresholds
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.venue import Market
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.addresses import GuardedResolver
from lakehouse_ray.sources.binance.archive import BinanceArchive
from lakehouse_ray.sources.binance.decode import BinanceDecoder
from lakehouse_ray.sources.binance.limits import limits_of
from lakehouse_ray.sources.binance.rest import BinanceRest, RestPolicy
from lakehouse_ray.sources.budget import Limit
from lakehouse_ray.sources.http import HttpClient, RetryPolicy
from lakehouse_ray.sources.turns import Account
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.committer import Committer
from lakehouse_ray.storage.objects import ObjectStore, open_store


def make_committer(access: CatalogAccess, table: Table, run_id: str) -> Committer:
    return Committer(access, table, run_id)


@dataclass(frozen=True)
class Writer:
    """Everything that writing needs. Pickles, so that each worker makes its own components."""

    settings: Settings

    @cached_property
    def clock(self) -> Clock:
        return SystemClock()

    @cached_property
    def store(self) -> ObjectStore:
        return open_store(self.settings.storage_root, s3_access(self.settings))

    @property
    def access(self) -> CatalogAccess:
        return catalog_access(self.settings)

    @cached_property
    def catalog(self) -> TableCatalog:
        return TableCatalog(self.access)

    @property
    def retry(self) -> RetryPolicy:
        ingest = self.settings.ingest
        return RetryPolicy(ingest.retry_attempts_max, ingest.retry_budget_s)

    @cached_property
    def archive(self) -> BinanceArchive:
        settings = self.settings
        return BinanceArchive(
            settings.binance.archive_url,
            settings.binance.listing_url,
            in_flight_max=settings.ingest.listing_requests_in_flight,
            timeout_s=settings.ingest.request_timeout_s,
            retry=self.retry,
            clock=self.clock,
        )

    def http_client(self) -> HttpClient:
        """A client of the running event loop."""
        ingest = self.settings.ingest
        return HttpClient(
            ingest.requests_in_flight, ingest.request_timeout_s, self.retry, self.clock
        )

    @property
    def rest_bases(self) -> dict[Market, str]:
        """Where each market's REST is asked."""
        binance = self.settings.binance
        return {"spot": binance.spot_url, "um": binance.um_url, "cm": binance.cm_url}

    @property
    def exchange_name(self) -> str:
        """Names the exchange that is asked: the same for all who ask it, 16 hexadecimal digits."""
        bases = " ".join(self.rest_bases.values())
        return hashlib.sha256(bases.encode()).hexdigest()[:16]

    @property
    def limits(self) -> dict[Market, tuple[Limit, ...]]:
        """What the exchange allows, by market."""
        update = self.settings.update
        return limits_of(
            {
                "spot": update.spot_weight_max,
                "um": update.um_weight_max,
                "cm": update.cm_weight_max,
            },
            self.settings.stream.connects_per_5min,
        )

    def budget(self) -> KeptBudget:
        """The account of what the exchange may be asked; one for all who share an address: processes
        of this machine by a file, machines of a cluster by an actor that has this one."""
        update = self.settings.update
        return KeptBudget(
            self.limits,
            self.store,
            self.clock,
            exchange=self.exchange_name,
            share=update.limit_share,
            # Longer than any request may take.
            lease_s=update.request_timeout_s + 120.0,
            machine=self.settings.home / "limits" / f"{self.exchange_name}.json",
        )

    def rest(self, http: HttpClient, account: Account) -> BinanceRest:
        """The exchange's REST, asked within the event loop of `http`."""
        update = self.settings.update
        return BinanceRest(
            http,
            account,
            self.rest_bases,
            self.clock,
            api_key=self.settings.binance.api_key.get_secret_value(),
            policy=RestPolicy(update.attempts_max, update.quiet_max_s),
        )

    def rest_client(self) -> HttpClient:
        """A client of the running event loop for the exchange's REST."""
        update = self.settings.update
        return HttpClient(
            update.requests_in_flight, update.request_timeout_s, self.retry, self.clock
        )

    def outbound_client(self) -> HttpClient:
        """A client of the running event loop for services that are told of the lake."""
        alerts = self.settings.alerts
        return HttpClient(
            1,
            alerts.webhook_timeout_s,
            RetryPolicy(alerts.webhook_attempts_max, alerts.webhook_budget_s),
            self.clock,
            GuardedResolver(),
        )

    @property
    def thresholds(self) -> Thresholds:
        """Of alerts."""
        alerts = self.settings.alerts
        return Thresholds(
            self.settings.quality.threshold,
            alerts.own_loss_rows_max,
            alerts.differing_share_max,
            alerts.anomalies_max,
        )

    @property
    def decoder(self) -> BinanceDecoder:
        ingest = self.settings.ingest
        return BinanceDecoder(
            inflated_bytes_max=ingest.inflated_bytes_max,
            inflate_ratio_max=ingest.inflate_ratio_max,
        )

    def committer_factory(self, table: Table, run_id: str) -> Callable[[], Committer]:
        """What makes the table's committer, here or in a process of its own."""
        return partial(make_committer, self.access, table, run_id)

    def __reduce__(self) -> tuple[type[Writer], tuple[Settings]]:
        return Writer, (self.settings,)
