"""Write the reference pages that the code itself is the source of.

usage: python docs/generate.py [--check]   (with --check: fail where a page is out of date)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import duckdb
from pydantic import BaseModel, SecretStr

from lakehouse_ray.kernels.indicators.declaration import Indicator, Parameter, spelled
from lakehouse_ray.kernels.indicators.registry import FAMILIES, INDICATORS
from lakehouse_ray.model.alerts import ALERT_DELIVERIES
from lakehouse_ray.model.assessment import ALERTS, ASSESSMENT_LOG
from lakehouse_ray.model.checks import refusals
from lakehouse_ray.model.checks.registry import rules_of, sequence_rules_of
from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.crosschecks import CROSS_CHECKS
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.gaps import GAPS
from lakehouse_ray.model.instruments import INSTRUMENT_STATES, LISTING_SIGHTINGS
from lakehouse_ray.model.lake import BUILD_LOG, OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.quality import ANOMALIES, QUALITY
from lakehouse_ray.model.schedules import RUN_LOG, SCHEDULE_ALERTS
from lakehouse_ray.model.streams import STREAM_GAP_STATES, STREAM_GAPS
from lakehouse_ray.model.table import Table
from lakehouse_ray.query.gate import FUNCTION_FAMILIES
from lakehouse_ray.query.scan import empty_sql
from lakehouse_ray.query.statement import create_view
from lakehouse_ray.query.views import SCHEMAS, VIEWS, View
from lakehouse_ray.settings import ENV_PREFIX, Settings
from lakehouse_ray.settings.schedules import ScheduleSettings
from lakehouse_ray.telemetry.metrics import (
    ASSESSMENT_RUN,
    CAPTURE,
    EXCHANGE,
    LAKE,
    QUALITY_STATE,
    SERVICE,
    WORK,
)

DOCS = Path(__file__).parent

LOGS = (
    OBJECT_LOG,
    QUARANTINE,
    BUILD_LOG,
    ASSESSMENT_LOG,
    ALERTS,
    ALERT_DELIVERIES,
    RUN_LOG,
    STREAM_GAPS,
    STREAM_GAP_STATES,
    SCHEDULE_ALERTS,
)
FAMILIES_OF_METRICS = {
    "Runs, workers and commits": WORK,
    "The exchange's REST": EXCHANGE,
    "Captures of streams": CAPTURE,
    "The service, one of its processes": SERVICE,
    "The lake": LAKE,
    "Quality": QUALITY_STATE,
    "The last assessment": ASSESSMENT_RUN,
}
# Of views of logs, which have these columns and the run.
SHAPES = (GAPS, CROSS_CHECKS, QUALITY, ANOMALIES)


def datasets() -> str:
    lines = [
        "# Data sets and tables",
        "",
        "Written by `make docs` from `lakehouse_ray/model/`. Times are UTC, in microseconds.",
        "",
        *_names(),
    ]
    for dataset in DATASETS.values():
        markets = "; ".join(f"{m}: {', '.join(f)}" for m, f in dataset.archive.items())
        tables = ", ".join(f"`{table.name}`" for table in dataset.tables)
        lines += [
            f"## {dataset.name}: `silver.{dataset.view}`",
            "",
            dataset.doc,
            "",
            f"{f'In the archive: {markets}' if markets else 'Of streams alone'}. Kept in {tables}.",
            "",
            *_columns(dataset.tables[0], VIEWS[f"silver.{dataset.view}"]),
        ]
    for product in PRODUCTS.values():
        unit = "symbol" if product.of == "symbol" else "market"
        extent = "" if product.period == "history" else f" and {product.period}"
        sources = ", ".join(f"`{t.name}`" for item in product.inputs for t in item.tables(""))
        lines += [
            f"## {product.name}: `{product.table.name}`",
            "",
            product.table.doc,
            "",
            f"Built by `lakehouse build {product.name}` from {sources}, by {unit}{extent}.",
            "",
            *_columns(product.table),
        ]
    for table in (INSTRUMENT_STATES, LISTING_SIGHTINGS):
        lines += [f"## `{table.name}`", "", table.doc, "", *_columns(table)]
    for table in LOGS:
        lines += [f"## `{table.name}`", "", table.doc, "", *_columns(table)]
    for table in SHAPES:
        lines += [f"## `{table.name}`", "", table.doc, "", *_columns(table)]
    return "\n".join(lines)


def metrics() -> str:
    lines = [
        "# Metrics",
        "",
        "Written by `make docs` from `lakehouse_ray/telemetry/metrics.py`. [Monitoring](monitoring.md) says "
        "how they get to Prometheus.",
        "",
    ]
    for title, shapes in FAMILIES_OF_METRICS.items():
        lines += [f"## {title}", "", "| metric | type | labels | |", "| --- | --- | --- | --- |"]
        for shape in shapes:
            labels = ", ".join(shape.labels)
            lines.append(
                f"| `{shape.exposed}` | {shape.kind} | {labels} | {shape.doc.rstrip('.')} |"
            )
        lines.append("")
    return "\n".join(lines)


def _names() -> list[str]:
    """Every name that SQL knows, with what a section of its own does not tell: its columns."""
    known = _sections()
    lines = [
        "## Every name",
        "",
        "What `lakehouse sql` and `lake.sql` can ask, by name. Names without columns here have a section "
        "below, or the columns of the one they belong to.",
        "",
        "| name | what | columns |",
        "| --- | --- | --- |",
    ]
    shapes = _shapes()
    for name in sorted(VIEWS):
        columns = "below" if name in known else _like(name, shapes, known)
        lines.append(f"| `{name}` | {VIEWS[name].doc} | {columns} |")
    return [*lines, ""]


def _like(name: str, shapes: dict[str, tuple[str, ...]], known: set[str]) -> str:
    """The columns of a name, or that of a section which has them all."""
    related = {table.name for table in VIEWS[name].tables} | {
        view.name for view in VIEWS.values() if name in {table.name for table in view.tables}
    }
    for other in sorted(related & known):
        lacking = [f"`{column}`" for column in shapes[other] if column not in shapes[name]]
        if set(shapes[name]) <= set(shapes[other]):
            return f"as `{other}`" + (f" without {', '.join(lacking)}" if lacking else "")
    return ", ".join(f"`{column}`" for column in shapes[name])


def _sections() -> set[str]:
    """Names that have a section."""
    sections = {f"silver.{dataset.view}" for dataset in DATASETS.values()}
    sections |= {product.table.name for product in PRODUCTS.values()}
    return sections | {table.name for table in (*LOGS, *SHAPES)}


def _shapes() -> dict[str, tuple[str, ...]]:
    """The columns of each name, as SQL has them."""
    found = {}
    for view in VIEWS.values():
        with duckdb.connect() as engine:
            for schema in SCHEMAS:
                engine.execute(f"CREATE SCHEMA {schema}")
            for table in view.tables:
                create_view(engine, table.name, empty_sql(table))
            if view.sql:
                create_view(engine, view.name, view.sql)
            found[view.name] = tuple(engine.sql(f"FROM {view.name}").columns)
    return found


def _columns(table: Table, view: View | None = None) -> list[str]:
    layout = ", ".join(
        p.column if p.transform == "identity" else f"{p.transform}({p.column})"
        for p in table.partitions
    )
    key = f"One row per ({', '.join(table.key)}). " if table.key else ""
    return [
        f"{key}Partitions: {layout}.",
        "",
        "| column | type | |",
        "| --- | --- | --- |",
        *(
            f"| `{c.name}` | {c.type}{'' if c.required else ', can be null'} | {c.doc} |"
            for c in table.columns
        ),
        *(f"| `{name}` | of the view | {doc} |" for name, doc in (view.added if view else ())),
        "",
    ]


CHECKS_INTRODUCTION = """
Written by `make docs` from `lakehouse_ray/model/checks/`. What is refused (`reject`) goes to
`silver.quarantine` with its reason and its file. Any other row stays (`flag`); what it breaks stands
in its column `flags`, names joined by commas, null where it breaks nothing, and counts in the quality
score (docs/quality.md).

`silver.rules` lists every rule, `silver.violations` has a row for each row (or refused row, or refused
object) and each rule that it breaks:

```sql
select dataset, rule, severity, count(*) as n from silver.violations group by all order by n desc
```

```sql
select time, rule, source_key from silver.violations
where dataset = 'klines' and market = 'spot' and symbol = 'BTCUSDT' and "interval" = '1h'
order by time
```

```sql
select * from silver.klines where flags is null and symbol = 'BTCUSDT' and "interval" = '1h'
```

```sql
select v.rule, r.doc, count(*) as n
from silver.violations v join silver.rules r on r.rule = v.rule and r.dataset = v.dataset
where v.dataset = 'metrics' and (r."interval" is null or r."interval" = v."interval")
group by all
```

From Python:

```python
lake.sql("select * from silver.violations where dataset = 'metrics' and rule = 'BLANK'").pl()
lake.klines("BTCUSDT", "1h", market="spot").filter(pl.col("flags").is_null()).collect()
```

Rules that compare a row with the one before it (`prev_` below, `lag` in `silver.rules`) are not in
`flags`: the row before may lie in another file, and may come or be replaced later.
`silver.violations` works them out when it is asked, some 4 million rows a second and core for each of
them. A statement that names a `rule` runs that one alone; one that names market, symbol and interval
reads only these; a condition on `time` saves nothing there, since the row before is needed. Rows are
kept in the order of time, so `OUT_OF_ORDER` is broken by none in a table.

Files that were written before the column existed have their rows marked when they are read. Marks in
a file are those of the rules of the day on which it was written; assessments hold rows against the
rules of today. Engines other than this one see what is in the files.

Conditions below are SQL: `x_us` is `epoch_us(x)`, `prev_x` is `lag(x) OVER (…)` in the order of time and
key within a symbol, for DuckDB's QUALIFY; `silver.rules` has them spelled out.
"""


def checks() -> str:
    lines = [
        "# Checks",
        "",
        *CHECKS_INTRODUCTION.strip().splitlines(),
        "",
        "## Refused",
        "",
        "| reason | |",
        "| --- | --- |",
    ]
    refused = (*refusals.ROW_REFUSALS, *refusals.OBJECT_REFUSALS, *refusals.RECORD_REFUSALS)
    lines += [*(f"| `{rule.name}` | {rule.doc} |" for rule in refused), ""]
    for dataset in DATASETS.values():
        interval = "1m" if dataset.bars else None
        rules: list[Rule] = []
        for market in dataset.archive:
            found = (
                *rules_of(dataset.name, market, interval),
                *sequence_rules_of(dataset.name, market),
            )
            rules += [rule for rule in found if rule not in rules]
        lines += [
            f"## Flagged in {dataset.name}" + (f" (at {interval})" if interval else ""),
            "",
            "| flag | | condition |",
            "| --- | --- | --- |",
            *(
                f"| `{rule.name}` | {rule.doc}{_limits(rule, dataset.archive)} | `{rule.where}` |"
                for rule in rules
            ),
            "",
        ]
    return "\n".join(lines)


def _limits(rule: Rule, markets: Any) -> str:
    left_out = [market for market in markets if market not in rule.markets]
    where = f" Only {', '.join(rule.markets)}." if left_out else ""
    return where + ("" if rule.costs else " Costs nothing in the quality score.")


def settings() -> str:
    lines = [
        "# Settings",
        "",
        "Written by `make docs` from `lakehouse_ray/settings/`. Precedence: command line,",
        "environment, `lakehouse.toml` in the working folder, default. `lakehouse config show`",
        "prints what is in force and where it came from.",
        "",
        "| `lakehouse.toml` | environment | default | |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *_settings(Settings, ""), ""])


def _settings(model: type[BaseModel], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += _settings(kind, f"{prefix}{name}.")
            continue
        if name == "schedules":
            rows += _schedules()
            continue
        dotted = f"{prefix}{name}"
        variable = ENV_PREFIX + dotted.replace(".", "__").upper()
        default = field.default
        shown = "" if isinstance(default, SecretStr) or default == "" else f"`{default}`"
        rows.append(f"| `{dotted}` | `{variable}` | {shown} | {field.description or ''} |")
    return rows


def _schedules() -> list[str]:
    """Each entry of the list; as one variable it is JSON."""
    rows = [
        f"| `schedules` | `{ENV_PREFIX}SCHEDULES` | `[]` | A list: `[[schedules]]` in the file, JSON in "
        "the variable ([schedules.md](schedules.md)); each has: |"
    ]
    for name, field in ScheduleSettings.model_fields.items():
        shown = "" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        rows.append(f"| `[[schedules]]` `{name}` | | {shown} | {field.description or ''} |")
    return rows


INDICATORS_INTRODUCTION = """\
# Indicators

Written by `make docs` from `lakehouse_ray/kernels/indicators/`: {count} indicators.

```python
lake.indicators("BTCUSDT", "1h", ["sma_20", "macd_12_26_9"], "2024-01", "2024-02", warmup=200)
```
```
lakehouse get BTCUSDT --interval 1h --start 2024-01 --indicators sma_20,macd_12_26_9 --warmup 200
```

**Names.** `macd_12_26_9` is `macd` with its parameters in the order of its table below; those left
away at the end have their defaults, and so `rsi` is `rsi_14`. Columns carry all parameters, whatever
was left away: `macd_12_26_9`, `macd_signal_12_26_9`, `macd_hist_12_26_9`. An unknown name, too many
parameters or ones out of bounds are errors.

**Segments.** A segment is a run of bars each no further than the interval from the one before. An
outage ends it, and so does a bar in which a column that the indicator reads is null, NaN or infinite;
a bar with zero volume does not. Each segment is computed as if there were nothing else: no value
spans a gap, and none after it depends on what came before.

**Null.** A value is null in the warm-up of its segment (before *first value*: 0 is the segment's first
bar), in a bar without a number, and where its formula divides by zero because nothing moved or
nothing was traded. There TA-Lib has a convention, mostly 0, stated below.

**Where calculation begins.** At `start`; with `warmup=N` at up to N bars before it that hang together
with it, which are not shown. Averages that remember (ema, rsi, atr, adx, macd, …) depend on where they
began: for 6 equal digits an ema needs about 7 × period bars, Wilder's averages 14 × period. Running
sums (obv, ad) have no level of their own, only changes.

**Equal to TA-Lib** 0.8 from the first value on, to 1e-9 of the larger of the value and a thousandth of
the largest of the series, and tested so on random walks and real bars; where TA-Lib itself has lost
digits (the slope of a line through high prices that move little), the tests compare with exact
arithmetic.

**In pieces.** `kernels.indicators.compute` returns, beside the columns, what the next piece of the
series needs; pieces of any size give what one run gives, to 1e-12.

**Volume** is the column `volume`: of the base asset, on COIN-M contracts.
"""


def indicators() -> str:
    lines = [INDICATORS_INTRODUCTION.format(count=len(INDICATORS))]
    for family, members in FAMILIES.items():
        lines += [f"## {family}", ""]
        for indicator in members:
            lines += _indicator(indicator)
    return "\n".join(lines)


def _indicator(indicator: Indicator) -> list[str]:
    rows = {
        "formula": indicator.formula,
        "reads": ", ".join(f"`{name}`" for name in indicator.columns),
        "parameters": "; ".join(map(_parameter, indicator.parameters)),
        "columns": ", ".join(f"`{name}`" for name in indicator.default.outputs),
        "seed": indicator.seed,
        "first value": f"bar `{indicator.first}`",
        "ddof": "" if indicator.ddof is None else str(indicator.ddof),
        "flat prices": indicator.flat,
        "TA-Lib": indicator.source,
    }
    return [
        f"### {indicator.default.name}: {indicator.title}",
        "",
        "| | |",
        "| --- | --- |",
        *(
            f"| {name} | {text.replace('|', chr(92) + '|')} |"
            for name, text in rows.items()
            if text
        ),
        "",
    ]


def _parameter(parameter: Parameter) -> str:
    default = "left away" if parameter.default is None else spelled(parameter.default)
    kind = "" if parameter.whole else ", may have a fraction"
    return f"`{parameter.name}` {default} ({parameter.least:,} to {parameter.most:,}{kind})"


def sql_functions() -> str:
    lines = [
        "# Functions of SQL over HTTP",
        "",
        "Written by `make docs` from `lakehouse_ray/query/gate.py`. DuckDB's own documentation says what",
        "each does. `lakehouse sql` on the machine itself has all of DuckDB's functions; see",
        "[serving.md](serving.md) for why the service has not.",
        "",
    ]
    for family, names in FUNCTION_FAMILIES.items():
        spelled_out = " ".join(
            f"`` {name} ``" if "|" in name else f"`{name}`" for name in sorted(set(names))
        )
        lines += [f"## {family.capitalize()}", "", spelled_out, ""]
    return "\n".join(lines)


def main() -> int:
    stale = []
    pages = {
        "checks.md": checks(),
        "datasets.md": datasets(),
        "settings.md": settings(),
        "indicators.md": indicators(),
        "sql-functions.md": sql_functions(),
        "metrics.md": metrics(),
    }
    for name, text in pages.items():
        path = DOCS / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(name)
        else:
            path.write_text(text)
    if stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
