"""Write the reference pages that the code itself is the source of.

usage: python docs/generate.py [--check]   (with --check: fail where a page is out of date)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import BUILD_LOG, OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.table import Table
from lakehouse_ray.settings import ENV_PREFIX, Settings

DOCS = Path(__file__).parent


def datasets() -> str:
    lines = [
        "# Data sets and tables",
        "",
        "Written by `make docs` from `lakehouse_ray/model/`. Times are UTC, in microseconds.",
        "",
    ]
    for dataset in DATASETS.values():
        markets = "; ".join(f"{m}: {', '.join(f)}" for m, f in dataset.archive.items())
        tables = ", ".join(f"`{table.name}`" for table in dataset.tables)
        lines += [
            f"## {dataset.name}: `silver.{dataset.view}`",
            "",
            dataset.doc,
            "",
            f"In the archive: {markets}. Kept in {tables}.",
            "",
            *_columns(dataset.tables[0]),
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
    for table in (OBJECT_LOG, QUARANTINE, BUILD_LOG):
        lines += [f"## `{table.name}`", "", table.doc, "", *_columns(table)]
    return "\n".join(lines)


def _columns(table: Table) -> list[str]:
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
        "",
    ]


def settings() -> str:
    lines = [
        "# Settings",
        "",
        "Written by `make docs` from `lakehouse_ray/settings.py`. Precedence: command line,",
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
        dotted = f"{prefix}{name}"
        variable = ENV_PREFIX + dotted.replace(".", "__").upper()
        default = field.default
        shown = "" if isinstance(default, SecretStr) or default == "" else f"`{default}`"
        rows.append(f"| `{dotted}` | `{variable}` | {shown} | {field.description or ''} |")
    return rows


def main() -> int:
    stale = []
    for name, text in (("datasets.md", datasets()), ("settings.md", settings())):
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
