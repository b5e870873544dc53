"""What does a repeated question about symbols cost, where the first one reads the times of all rows?

- Of each market of a lake that is there: `lake.universe` at other moments, `lake.identities` and
  `lake.exchange_info`, the first time in a process and then again, in ms. Unit of work: a question.
  Expected growth: the first with rows, the others with symbols.

usage: python tests/benchmarks/bench_symbols.py HOME [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lakehouse_ray as lh
from lakehouse_ray.errors import NotFoundError

ROUNDS = 9


def milliseconds(ask: Callable[[], object]) -> float:
    start = time.perf_counter()
    ask()
    return (time.perf_counter() - start) * 1000


def measure(home: Path, market: str) -> dict[str, list[float]]:
    found = {}
    for name in ("universe", "identities", "exchange_info"):
        lake = lh.connect(home)  # knows nothing yet
        took = [milliseconds(partial(ask, lake, name, market, n)) for n in range(ROUNDS + 1)]
        found[name] = [round(took[0], 1), round(statistics.median(took[1:]), 1)]
    return found


def ask(lake: lh.Lake, name: str, market: str, number: int) -> object:
    if name == "universe":
        return lake.universe(market, f"2024-01-{number + 1:02d}")
    return getattr(lake, name)(market)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {}
    for market in ("spot", "um", "cm"):
        try:
            figures[market] = measure(arguments.home, market)
        except NotFoundError:
            continue
        for name, (first, again) in figures[market].items():
            print(f"{market} {name}: first {first:,.0f} ms, then {again:,.1f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
