"""What may be asked for as a job: the command line that it means, and what is refused."""

from __future__ import annotations

import functools
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lakehouse_ray.cli import build as build_command
from lakehouse_ray.cli import fold as fold_command
from lakehouse_ray.cli import ingest as ingest_command
from lakehouse_ray.cli import maintain as maintain_command
from lakehouse_ray.cli import quality as quality_command
from lakehouse_ray.cli import update as update_command
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.model.venue import INTERVALS, MARKETS
from lakehouse_ray.model.workflows import Workflow
from lakehouse_ray.query.asked import ask_for

ASKED: TypeAdapter[Any] = TypeAdapter(Workflow)

MARKET = st.sampled_from(MARKETS)
INTERVAL = st.sampled_from(list(INTERVALS))
PROFILE = st.none() | st.sampled_from(["small", "medium", "large", "xlarge"])
ACTORS = st.integers(0, 1000)
SYMBOL = st.from_regex(r"\A[\w][\w-]{0,39}\Z") | st.sampled_from(
    ["BTCUSDT", "币安人生USDT", "BTCUSD_PERP", "1000SATSUSDT", "ETHUSDT_240329"]
)
SYMBOLS = st.lists(SYMBOL, max_size=5)
SPAN = st.sampled_from(
    [(None, None), ("2024-01", None), (None, "2024-01-05"), ("2024", "2024-01-05T12:00")]
)


@st.composite
def ingests(draw: st.DrawFn) -> dict[str, Any]:
    dataset = draw(st.sampled_from(list(DATASETS.values())))
    start, end = draw(SPAN)
    return {
        "workflow": "ingest", "market": draw(MARKET), "dataset": dataset.name,
        "interval": draw(INTERVAL) if dataset.bars else None, "symbols": draw(SYMBOLS),
        "quote": draw(st.none() | SYMBOL), "leverage_tokens": draw(st.booleans()),
        "stable_pairs": draw(st.booleans()),
        "contract": draw(st.sampled_from([None, "perpetual", "delivery"])),
        "start": start, "end": end, "freq": draw(st.sampled_from(["auto", "monthly", "daily"])),
        "build": draw(st.booleans()), "dry_run": draw(st.booleans()), "profile": draw(PROFILE),
        "actors": draw(ACTORS),
    }  # fmt: skip


@st.composite
def builds(draw: st.DrawFn) -> dict[str, Any]:
    start, end = draw(SPAN)
    return {
        "workflow": "build", "products": draw(st.lists(st.sampled_from(list(PRODUCTS)), max_size=3)),
        "markets": draw(st.lists(MARKET, max_size=3)),
        "intervals": draw(st.lists(INTERVAL, max_size=3)), "symbols": draw(SYMBOLS),
        "start": start, "end": end, "rebuild": draw(st.booleans()),
        "dry_run": draw(st.booleans()), "profile": draw(PROFILE), "actors": draw(ACTORS),
    }  # fmt: skip


@st.composite
def assessments(draw: st.DrawFn) -> dict[str, Any]:
    start, end = draw(SPAN)
    dataset = draw(st.none() | st.sampled_from(list(DATASETS.values())))
    has_bars = dataset is None or dataset.bars
    return {
        "workflow": "quality", "market": draw(st.none() | MARKET),
        "dataset": dataset and dataset.name,
        "interval": draw(st.none() | INTERVAL) if has_bars else None,
        "symbols": draw(SYMBOLS), "start": start, "end": end,
        "threshold": draw(st.none() | st.floats(0, 1)), "again": draw(st.booleans()),
    }  # fmt: skip


@st.composite
def updates(draw: st.DrawFn) -> dict[str, Any]:
    start, end = draw(SPAN)
    dataset = draw(st.none() | st.sampled_from(list(DATASETS.values())))
    has_bars = dataset is None or dataset.bars
    return {
        "workflow": "update", "market": draw(st.none() | MARKET),
        "dataset": dataset and dataset.name,
        "interval": draw(st.none() | INTERVAL) if has_bars else None,
        "symbols": draw(SYMBOLS), "start": start, "end": end, "again": draw(st.booleans()),
        "build": draw(st.booleans()), "dry_run": draw(st.booleans()), "profile": draw(PROFILE),
        "actors": draw(ACTORS),
    }  # fmt: skip


def parsed(command: Callable[..., int], values: dict[str, Any]) -> dict[str, Any]:
    """The options that the command would be called with, by way of a shell's line."""
    arguments = ASKED.validate_python(values).arguments()
    name, *rest = shlex.split(shlex.join(arguments))
    assert name == values["workflow"]
    return dict(parser(command).make_context(name, rest).params)


@functools.cache
def parser(command: Callable[..., int]) -> Any:
    app = typer.Typer()
    app.command()(command)
    return typer.main.get_command(app)


def unique(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def span_of(values: dict[str, Any], earliest: str, latest: str) -> tuple[int, int] | None:
    if values["start"] is None and values["end"] is None:
        return None
    return parse_time(values["start"] or earliest), parse_time(values["end"] or latest)


@settings(deadline=None)
@given(ingests())
def test_an_ingest_is_the_commands_own(values: dict[str, Any]) -> None:
    told = parsed(ingest_command.ingest, values)
    names = (
        "market", "dataset", "interval", "symbols", "quote", "leverage_tokens", "stable_pairs",
        "contract", "start", "end",
    )  # fmt: skip
    selection = ingest_command._selection(**{name: told[name] for name in names})
    assert selection.dataset is DATASETS[values["dataset"]]
    assert (selection.market, selection.interval) == (values["market"], values["interval"])
    assert selection.symbols == unique(values["symbols"])
    assert (selection.quote, selection.contract) == (values["quote"], values["contract"])
    assert selection.leveraged is values["leverage_tokens"]
    assert selection.stable_pairs is values["stable_pairs"]
    span = selection.span and (selection.span.start_us, selection.span.end_us)
    assert span == span_of(values, "2017-01", "2100-01")
    assert ingest_command._freq(told["freq"]) == values["freq"]
    assert (told["build"], told["dry_run"]) == (values["build"], values["dry_run"])
    assert (told["profile"] or None, told["actors"]) == (values["profile"], values["actors"])
    assert not any(told[name] for name in ("address", "home", "json_", "debug"))


@settings(deadline=None)
@given(builds())
def test_a_build_is_the_commands_own(values: dict[str, Any]) -> None:
    told = parsed(build_command.build, values)
    assert unique(told["products"] or []) == unique(values["products"])
    names = ("market", "symbols", "interval", "start", "end")
    scope = build_command._scope(**{name: told[name] for name in names})
    assert (scope.markets, scope.symbols) == (unique(values["markets"]), unique(values["symbols"]))
    assert scope.intervals == unique(values["intervals"])
    span = scope.span and (scope.span.start_us, scope.span.end_us)
    assert span == span_of(values, "1970", "2200")
    assert (told["rebuild"], told["dry_run"]) == (values["rebuild"], values["dry_run"])
    assert (told["profile"] or None, told["actors"]) == (values["profile"], values["actors"])
    assert not any(told[name] for name in ("address", "home", "json_", "debug"))


@settings(deadline=None)
@given(assessments())
def test_an_assessment_is_the_commands_own(values: dict[str, Any]) -> None:
    told = parsed(quality_command.quality, values)
    asked = ask_for(told["market"], told["dataset"], told["interval"], told["symbols"])
    assert (asked.market, asked.interval) == (values["market"], values["interval"])
    assert (asked.dataset and asked.dataset.name) == values["dataset"]
    assert asked.symbols == unique(values["symbols"])
    assert (told["start"] or None, told["end"] or None) == (values["start"], values["end"])
    assert (told["threshold"], told["again"]) == (values["threshold"], values["again"])
    # Files are written by nobody from afar.
    assert not any(told[name] for name in ("html", "report_json", "address", "home"))


@settings(deadline=None)
@given(updates())
def test_an_update_is_the_commands_own(values: dict[str, Any]) -> None:
    told = parsed(update_command.update, values)
    asked = ask_for(told["market"], told["dataset"], told["interval"], told["symbols"])
    assert (asked.market, asked.interval) == (values["market"], values["interval"])
    assert (asked.dataset and asked.dataset.name) == values["dataset"]
    assert asked.symbols == unique(values["symbols"])
    assert (told["start"] or None, told["end"] or None) == (values["start"], values["end"])
    for name in ("again", "build", "dry_run"):
        assert told[name] is values[name]
    assert (told["profile"] or None, told["actors"]) == (values["profile"], values["actors"])
    assert not any(told[name] for name in ("address", "home", "json_", "debug"))


@given(
    st.lists(
        st.sampled_from(["silver.klines_fine", "bronze.object_log", "gold.daily"]), max_size=9
    ),
    st.lists(st.sampled_from(["fold", "compact", "manifests", "expire", "sweep"]), max_size=10),
    st.booleans(),
)
def test_a_maintenance_is_the_commands_own(tables: list[str], steps: list[str], dry: bool) -> None:
    values = {"workflow": "maintain", "tables": tables, "steps": steps, "dry_run": dry}
    told = parsed(maintain_command.maintain, values)
    assert unique(told["tables"] or []) == unique(tables)
    assert told["steps"] == ",".join(unique(steps))
    assert told["dry_run"] is dry
    assert not any(told[name] for name in ("home", "json_", "debug"))


@pytest.mark.parametrize("until", [None, "2024-06-01", "2024-06-01T12:00"])
@pytest.mark.parametrize("dry", [True, False])
def test_a_fold_is_the_commands_own(until: str | None, dry: bool) -> None:
    told = parsed(fold_command.fold, {"workflow": "fold", "until": until, "dry_run": dry})
    assert (told["until"] or None, told["dry_run"]) == (until, dry)
    assert not any(told[name] for name in ("home", "json_", "quiet", "debug"))


GOOD: dict[str, Any] = {
    "workflow": "ingest", "market": "spot", "dataset": "klines", "interval": "1m",
}  # fmt: skip
HOSTILE = (
    "", " ", "-", "--home=/tmp", "--json", "-h", "A,B", "A;id", "$(id)", "`id`", "A|B", "A&B", "A>B",
    "../x", "/etc/passwd", "A B", "A\nB", "A\x00B", "'", '"', "A'$(id)'", "A*", "~", "A=B", "A:B", "%s",
    "\u202eA", "A" * 41, "!!", "{a,b}", "A\\B", "#A",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_hostile_word_is_accepted_anywhere(text: str) -> None:
    for name in ("market", "dataset", "interval", "quote", "contract", "start", "end", "freq",
                 "profile", "actors"):  # fmt: skip
        refused({**GOOD, name: text})
    refused({**GOOD, "symbols": [text]})
    refused({**GOOD, "symbols": text})
    refused({"workflow": "build", "products": [text]})
    refused({"workflow": "build", "markets": [text]})
    refused({"workflow": "quality", "threshold": text})
    refused({"workflow": "maintain", "tables": [text]})
    refused({"workflow": "maintain", "steps": [text]})
    refused({"workflow": "fold", "until": text})
    refused({**GOOD, "workflow": text})


@pytest.mark.parametrize(
    "change",
    [
        {"entrypoint": "id"}, {"runtime_env": {}}, {"env_vars": {"A": "B"}}, {"home": "/tmp"},
        {"address": "auto"}, {"html": "/tmp/x"}, {"debug": True}, {"working_dir": "."},
        {"interval": None}, {"dataset": "trades"}, {"start": "2024-02", "end": "2024-01"},
        {"start": "2024-13"}, {"start": "2150"}, {"actors": -1}, {"actors": 10**9},
        {"dataset": "instruments"}, {"symbols": ["A"] * 1001}, {"market": None},
        {"symbols": [{"a": 1}]}, {"leverage_tokens": "maybe"}, {"workflow": "maintain"},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    refused({**GOOD, **change})


def refused(values: Any) -> None:
    with pytest.raises(ValidationError):
        ASKED.validate_python(values)


@settings(deadline=None, max_examples=30)
@given(SYMBOLS)
def test_a_shell_hands_on_what_was_meant(symbols: list[str]) -> None:
    """Not only shlex says so, which also wrote it."""
    arguments = ASKED.validate_python({**GOOD, "symbols": symbols}).arguments()
    line = shlex.join(["printf", r"%s\0", *arguments])
    got = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True).stdout
    assert got.decode().split("\0")[:-1] == arguments


def test_instruments_are_asked_for_as_a_whole() -> None:
    asked = ASKED.validate_python({"workflow": "ingest", "market": "um", "dataset": "instruments"})
    assert asked.arguments() == ["ingest", "--market=um", "--dataset=instruments"]
    assert asked.subject() == "um-instruments"


@settings(deadline=None)
@given(st.one_of(ingests(), builds(), assessments()))
def test_what_it_is_about_is_a_name(values: dict[str, Any]) -> None:
    subject = ASKED.validate_python(values).subject()
    assert 0 < len(subject) <= 60
    assert subject.isascii()
    assert subject.replace("-", "").replace("_", "").isalnum()
