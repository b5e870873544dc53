"""Files of the archive that the synthetic exchange has none of: order books, forced orders, and funding."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

DAY_MS = 86_400_000
BOOK_UPDATES_A_DAY = 120_000
FORCED_ORDERS_A_DAY = 300
PERCENTAGES = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)


def write_files(
    root: Path, market: str, name: str, symbols: int, start: date, periods: int
) -> None:
    """Files of so many days (of rates of funding: months) and symbols, each with its CHECKSUM."""
    monthly = name == "fundingRate"
    for number in range(symbols):
        symbol = f"S{number:03d}USDT" if market == "um" else f"S{number:03d}USD_PERP"
        freq = "monthly" if monthly else "daily"
        folder = root / f"data/futures/{market}/{freq}/{name}/{symbol}"
        folder.mkdir(parents=True)
        for period in range(periods):
            first = _month(start, period) if monthly else start + timedelta(days=period)
            after = _month(start, period + 1) if monthly else first + timedelta(days=1)
            rng = np.random.default_rng([number, period])
            stem = f"{symbol}-{name}-{first:%Y-%m}" if monthly else f"{symbol}-{name}-{first}"
            csv = "\n".join(_MADE[name](rng, _ms(first), _ms(after))) + "\n"
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
                out.writestr(f"{stem}.csv", csv)
            path = folder / f"{stem}.zip"
            path.write_bytes(packed.getvalue())
            digest = hashlib.sha256(packed.getvalue()).hexdigest()
            path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")


def _book_ticker(rng: np.random.Generator, start_ms: int, end_ms: int) -> Iterator[str]:
    yield (
        "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time"
    )
    count = BOOK_UPDATES_A_DAY
    # Updates come in bursts, and most change one side's quantity alone: such rows take 10 bytes of a zip, as
    # those of recorded streams do.
    pauses = np.where(rng.random(count) < 0.8, 0, rng.exponential(5, count))
    times = start_ms + (np.cumsum(pauses) * (end_ms - start_ms - 1000) / pauses.sum()).astype(int)
    ids = start_ms + np.cumsum(rng.integers(1, 40, count))
    ticks = 650_000 + np.cumsum(rng.integers(-9, 10, count) * (rng.random(count) < 0.03))
    of_bid = rng.random(count) < 0.5
    turns, quantities = np.arange(count), rng.exponential(8, count)
    bids = quantities[np.maximum.accumulate(np.where(of_bid, turns, 0))]
    asks = quantities[np.maximum.accumulate(np.where(of_bid, 0, turns))]
    late = rng.integers(1, 4, count)
    for n in range(count):
        yield (
            f"{ids[n]},{ticks[n] / 10:.2f},{bids[n]:.3f},{ticks[n] / 10 + 0.1:.2f},{asks[n]:.3f},"
            f"{times[n]},{times[n] + late[n]}"
        )


def _book_depth(rng: np.random.Generator, start_ms: int, end_ms: int) -> Iterator[str]:
    yield "timestamp,percentage,depth,notional"
    for at_ms in range(start_ms + int(rng.integers(0, 9000)), end_ms, 30_000):
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        for percentage in PERCENTAGES:
            depth = abs(percentage) * 2000 * rng.uniform(0.8, 1.2)
            price = 65_000 * rng.uniform(0.98, 1.02)
            yield f"{at:%Y-%m-%d %H:%M:%S},{percentage},{depth:.3f}00000,{depth * price:.4f}0000"


def _liquidations(rng: np.random.Generator, start_ms: int, end_ms: int) -> Iterator[str]:
    yield (
        "time,side,order_type,time_in_force,original_quantity,price,average_price,order_status,"
        "last_fill_quantity,accumulated_fill_quantity"
    )
    for at_ms in np.sort(rng.integers(start_ms, end_ms, FORCED_ORDERS_A_DAY)):
        side = "BUY" if rng.random() < 0.5 else "SELL"
        quantity, price = rng.exponential(2), 65_000 * rng.uniform(0.98, 1.02)
        yield (
            f"{at_ms},{side},LIMIT,IOC,{quantity:.3f},{price:.2f},{price * 0.999:.2f},FILLED,"
            f"{quantity * rng.random():.3f},{quantity:.3f}"
        )


def _funding(rng: np.random.Generator, start_ms: int, end_ms: int) -> Iterator[str]:
    yield "calc_time,funding_interval_hours,last_funding_rate"
    for at_ms in range(start_ms, end_ms, DAY_MS // 3):
        yield f"{at_ms + int(rng.integers(0, 20))},8,{rng.normal(1e-4, 1e-4):.8f}"


_MADE: dict[str, Callable[[np.random.Generator, int, int], Iterator[str]]] = {
    "bookTicker": _book_ticker,
    "bookDepth": _book_depth,
    "liquidationSnapshot": _liquidations,
    "fundingRate": _funding,
}
NAMES = frozenset(_MADE)


def _month(start: date, months: int) -> date:
    years, month = divmod(start.month - 1 + months, 12)
    return date(start.year + years, month + 1, 1)


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
