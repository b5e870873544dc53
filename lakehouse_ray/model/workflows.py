"""Work that may be asked for by its name: typed parameters, and the command line that they mean.

Who asks gives values alone. What is run, how its options are called and where it runs is never
theirs: names are looked up in lists, symbols and times have an alphabet, and files are nowhere among
the parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.instruments import INSTRUMENTS
from lakehouse_ray.model.products.registry import find_products
from lakehouse_ray.model.timespan import parse_span, parse_time
from lakehouse_ray.model.venue import Market, parse_interval

# Where an exchange's data begins, and a time after everything that can be listed.
LISTED_SPAN = ("2017-01", "2100-01")
# Before and after everything that can be stored.
STORED_SPAN = ("1970", "2200")

# Letters of every script: 币安人生USDT is traded. What begins with a hyphen might be an option.
_SYMBOL = re.compile(r"\w[\w-]{0,39}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9]+")
_SYMBOLS_MAX = 1000
# Linux takes 128 KiB as one argument or variable. Ray gives a job its command as one, and what was
# asked for as another, where each letter beyond ASCII is up to 7 characters.
_COMMAND_BYTES_MAX = 32_000


def _symbol(text: str) -> str:
    if not _SYMBOL.fullmatch(text):
        raise InvalidError(f"no symbol: {text[:40]!r}")
    return text


def _time(text: str) -> str:
    parse_time(text)
    return text.strip()


def _dataset(text: str) -> str:
    return text if text == INSTRUMENTS else find_dataset(text).name


def _product(text: str) -> str:
    find_products(text)
    return text


Symbol = Annotated[str, AfterValidator(_symbol)]
Time = Annotated[str, Field(max_length=40), AfterValidator(_time)]
DatasetName = Annotated[str, AfterValidator(_dataset)]
ProductName = Annotated[str, AfterValidator(_product)]
Interval = Annotated[str, AfterValidator(parse_interval)]
TableName = Annotated[str, Field(pattern=r"^(bronze|silver|gold)\.[a-z0-9_]{1,60}$", max_length=80)]
MaintenanceStep = Literal["fold", "compact", "manifests", "expire", "sweep"]
Symbols = Annotated[list[Symbol], Field(max_length=_SYMBOLS_MAX)]

_START = "First instant, ISO and UTC, such as 2024-01."
_END = "End, not included: 2024-07 ends with June."
_PROFILE = "Size of its workers. Empty: the allocator chooses."


def interval_of(dataset: Dataset, interval: str) -> str | None:
    """The interval of a data set's series; None where it has none.

    Raises InvalidError for one too many, and where one is missing or unknown.
    """
    if not dataset.bars:
        if interval:
            raise InvalidError(f"{dataset.name} has no intervals", "leave the interval away")
        return None
    if not interval:
        raise InvalidError(f"{dataset.name} needs an interval", "such as 1m")
    return parse_interval(interval)


class _Workflow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    workflow: str

    def arguments(self) -> list[str]:
        """The arguments of `lakehouse` that mean this, its command first."""
        raise NotImplementedError

    def subject(self) -> str:
        """What it is about, as part of a name: letters, digits, `_` and `-`."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _fits_a_command(self) -> Self:
        size = sum(len(part.encode()) for part in self.arguments())
        if size > _COMMAND_BYTES_MAX:
            raise InvalidError(f"{size:,} bytes of parameters are too many", "name fewer symbols")
        return self


class IngestWorkflow(_Workflow):
    """The archive's files into bronze and silver; running it again changes nothing."""

    workflow: Literal["ingest"]
    market: Market = Field(description="spot, um (USD-M) or cm (COIN-M).")
    dataset: DatasetName = Field(description="As the archive spells it; or instruments.")
    interval: Interval | None = Field(None, description="Of bars.")
    symbols: Symbols = Field([], description="Empty: everything listed.")
    quote: Symbol | None = Field(None, description="Only pairs with this quote asset.")
    leverage_tokens: bool = Field(True, description="Take BTCUPUSDT and the like too.")
    stable_pairs: bool = Field(True, description="Take pairs of two stablecoins too.")
    contract: Literal["perpetual", "delivery"] | None = Field(None, description="Of futures.")
    start: Time | None = Field(None, description=_START)
    end: Time | None = Field(None, description=_END)
    freq: Literal["auto", "monthly", "daily"] = Field("auto", description="Which files.")
    build: bool = Field(False, description="Build derived tables of it afterwards.")
    dry_run: bool = Field(False, description="Only say what would be done.")
    profile: Literal["small", "medium", "large", "xlarge"] | None = Field(
        None, description=_PROFILE
    )
    actors: int = Field(0, ge=0, le=1000, description="Workers; 0: the allocator chooses.")

    @model_validator(mode="after")
    def _is_one_series(self) -> Self:
        if self.dataset == INSTRUMENTS:
            told = self.model_fields_set - {"workflow", "market", "dataset", "dry_run"}
            if told:
                raise InvalidError("instruments are asked for as a whole: market and dataset alone")
        else:
            interval_of(find_dataset(self.dataset), self.interval or "")
            parse_span(self.start or "", self.end or "", *LISTED_SPAN)
        return self

    def arguments(self) -> list[str]:
        return [
            "ingest",
            *_options(
                market=self.market, dataset=self.dataset, interval=self.interval,
                symbols=_joined(self.symbols), quote=self.quote, contract=self.contract,
                start=self.start, end=self.end,
                freq=self.freq if self.freq != "auto" else None,
                profile=self.profile, actors=self.actors or None,
            ),
            *_flags({
                "--no-leverage-tokens": not self.leverage_tokens,
                "--no-stable-pairs": not self.stable_pairs,
                "--build": self.build,
                "--dry-run": self.dry_run,
            }),
        ]  # fmt: skip

    def subject(self) -> str:
        return _name(self.market, self.dataset, self.interval)


class QualityWorkflow(_Workflow):
    """The assessment of what has changed."""

    workflow: Literal["quality"]
    market: Market | None = Field(None, description="spot, um or cm. None: all.")
    dataset: DatasetName | None = Field(None, description="None: all.")
    interval: Interval | None = Field(None, description="Of bars. None: all.")
    symbols: Symbols = Field([], description="Empty: all.")
    start: Time | None = Field(None, description=f"{_START} Of the days that are judged.")
    end: Time | None = Field(None, description=_END)
    threshold: float | None = Field(
        None, ge=0, le=1, description="Days that score less fail, and the job with them."
    )
    again: bool = Field(False, description="Assess what has not changed, too.")

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.dataset == INSTRUMENTS:
            raise InvalidError("instruments have no score")
        if self.dataset is not None and self.interval is not None:
            interval_of(find_dataset(self.dataset), self.interval)
        parse_span(self.start or "", self.end or "", *STORED_SPAN)
        return self

    def arguments(self) -> list[str]:
        return [
            "quality",
            *_options(
                market=self.market, dataset=self.dataset, interval=self.interval,
                symbols=_joined(self.symbols), start=self.start, end=self.end,
                threshold=self.threshold,
            ),
            *_flags({"--again": self.again}),
        ]  # fmt: skip

    def subject(self) -> str:
        return _name(self.market, self.dataset, self.interval)


class BuildWorkflow(_Workflow):
    """Derived tables, built where something has changed."""

    workflow: Literal["build"]
    products: list[ProductName] = Field(
        [], max_length=50, description="Names of derived tables, such as daily. Empty: all."
    )
    markets: list[Market] = Field([], max_length=3, description="Empty: all.")
    intervals: list[Interval] = Field([], max_length=20, description="Of bars. Empty: all.")
    symbols: Symbols = Field([], description="Empty: all.")
    start: Time | None = Field(None, description=_START)
    end: Time | None = Field(None, description=_END)
    rebuild: bool = Field(False, description="Build anew what is current, too.")
    dry_run: bool = Field(False, description="Only say what would be done.")
    profile: Literal["small", "medium", "large", "xlarge"] | None = Field(
        None, description=_PROFILE
    )
    actors: int = Field(0, ge=0, le=1000, description="Workers; 0: the allocator chooses.")

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        parse_span(self.start or "", self.end or "", *STORED_SPAN)
        return self

    def arguments(self) -> list[str]:
        return [
            "build",
            *_options(
                market=_joined(self.markets), interval=_joined(self.intervals),
                symbols=_joined(self.symbols), start=self.start, end=self.end,
                profile=self.profile, actors=self.actors or None,
            ),
            *_flags({"--rebuild": self.rebuild, "--dry-run": self.dry_run}),
            *dict.fromkeys(self.products),
        ]  # fmt: skip

    def subject(self) -> str:
        return _name(*dict.fromkeys(self.products))


class UpdateWorkflow(_Workflow):
    """Gaps and the latest rows, filled by the exchange's REST within its limits."""

    workflow: Literal["update"]
    market: Market | None = Field(None, description="spot, um or cm. None: all.")
    dataset: DatasetName | None = Field(None, description="None: all that REST has.")
    interval: Interval | None = Field(None, description="Of bars. None: all.")
    symbols: Symbols = Field([], description="Empty: all that are stored.")
    start: Time | None = Field(None, description=f"{_START} Also of symbols that are not stored.")
    end: Time | None = Field(None, description=_END)
    again: bool = Field(False, description="Ask also for what the exchange said it has not.")
    build: bool = Field(True, description="Rebuild derived tables afterwards.")
    dry_run: bool = Field(False, description="Only say what would be asked for.")
    profile: Literal["small", "medium", "large", "xlarge"] | None = Field(
        None, description=_PROFILE
    )
    actors: int = Field(0, ge=0, le=1000, description="Workers; 0: the allocator chooses.")

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.dataset == INSTRUMENTS:
            raise InvalidError("instruments are ingested, not updated")
        if self.dataset is not None and self.interval is not None:
            interval_of(find_dataset(self.dataset), self.interval)
        parse_span(self.start or "", self.end or "", *STORED_SPAN)
        return self

    def arguments(self) -> list[str]:
        return [
            "update",
            *_options(
                market=self.market, dataset=self.dataset, interval=self.interval,
                symbols=_joined(self.symbols), start=self.start, end=self.end,
                profile=self.profile, actors=self.actors or None,
            ),
            *_flags({
                "--again": self.again, "--no-build": not self.build, "--dry-run": self.dry_run,
            }),
        ]  # fmt: skip

    def subject(self) -> str:
        return _name(self.market, self.dataset, self.interval)


class MaintainWorkflow(_Workflow):
    """Small files written together, old snapshots expired, files of nobody removed."""

    workflow: Literal["maintain"]
    tables: list[TableName] = Field(
        [], max_length=200, description="Such as silver.klines_fine. Empty: all."
    )
    steps: list[MaintenanceStep] = Field([], max_length=10, description="Empty: all.")
    dry_run: bool = Field(False, description="Only say what would be done.")

    def arguments(self) -> list[str]:
        return [
            "maintain",
            *_options(steps=_joined(self.steps)),
            *_flags({"--dry-run": self.dry_run}),
            *dict.fromkeys(self.tables),
        ]

    def subject(self) -> str:
        return _name(*dict.fromkeys(self.tables))


class FoldWorkflow(_Workflow):
    """Live rows of closed hours merged into the main tables."""

    workflow: Literal["fold"]
    until: Time | None = Field(
        None, description="Rows before this instant. None: of the hours that are over."
    )
    dry_run: bool = Field(False, description="Only say what would be done.")

    def arguments(self) -> list[str]:
        return ["fold", *_options(until=self.until), *_flags({"--dry-run": self.dry_run})]

    def subject(self) -> str:
        return ""


AnyWorkflow = (
    IngestWorkflow
    | QualityWorkflow
    | BuildWorkflow
    | UpdateWorkflow
    | FoldWorkflow
    | MaintainWorkflow
)
Workflow = Annotated[AnyWorkflow, Field(discriminator="workflow")]

_WORKFLOW: TypeAdapter[AnyWorkflow] = TypeAdapter(Workflow)


def parse_workflow(values: object) -> AnyWorkflow:
    """Read a workflow's name and parameters. Raises InvalidError for what cannot be."""
    try:
        return _WORKFLOW.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise InvalidError(
            f"{where}: {first['msg']}"
            if where
            else str(first["msg"]).removeprefix("Value error, "),
            "workflows are ingest, update, fold, build, quality and maintain, with the parameters of "
            "their commands",
        ) from error


def _options(**values: Any) -> list[str]:
    # With `=`, so that no value is ever read as an option of its own.
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def _flags(given: dict[str, bool]) -> list[str]:
    return [flag for flag, is_given in given.items() if is_given]


def _joined(names: Iterable[str]) -> str | None:
    return ",".join(dict.fromkeys(names)) or None


def _name(*parts: str | None) -> str:
    told = [_NOT_IN_NAMES.sub("_", part) for part in parts if part]
    return "-".join(told)[:60].rstrip("-") or "all"
