"""`lake.live`: rows of a data set as they are committed, live ones and others alike, each key once.

Nothing waits in memory for whoever reads slowly: the next step is looked for when the one before has
been taken, and is then as large as what was committed meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import duckdb
import polars as pl

from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.model.venue import parse_interval, parse_market
from lakehouse_ray.query.live_events import LiveBatch, LiveEvent, slow_frame
from lakehouse_ray.query.live_token import LiveToken, asked_for, parse_live_token
from lakehouse_ray.query.pins import FindTable
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.query.step_gaps import step_gaps
from lakehouse_ray.query.step_rows import LastRows, Wanted, step_rows
from lakehouse_ray.query.steps import State, Step, next_step, state_at, state_now

POLL_S = 0.25
# Events of a batch.
BATCH_EVENTS_MAX = 5_000
# A reader that kept a step waiting for longer is told so.
SLOW_S = 5.0
# A lake that cannot be read for longer ends the following.
_PATIENCE_S = 60.0
_LOOK_MAX_S = 0.2


def wanted_of(
    dataset: str, symbols: str | Iterable[str] | None, interval: str | None, market: str
) -> Wanted:
    """Raises InvalidError for an unknown data set, market or interval, and for no symbols."""
    found = find_dataset(dataset)
    chosen = parse_market(market)
    if chosen not in found.markets:
        raise InvalidError(f"{found.name} is not of {chosen}", f"of {', '.join(found.markets)}")
    if found.bars and not interval:
        raise InvalidError(f"{found.name} needs an interval", "such as 1m")
    if interval and not found.bars:
        raise InvalidError(f"{found.name} has no intervals", "leave the interval away")
    names = symbols.split(",") if isinstance(symbols, str) else symbols
    some = None if names is None else frozenset(name.strip() for name in names if name.strip())
    if some is not None and not some:
        raise InvalidError("no symbol is given", "such as BTCUSDT; none at all means every one")
    return Wanted(found, chosen, parse_interval(interval) if interval else None, some)


@dataclass(frozen=True)
class OneDatabase(Engine):
    """Runs all statements of a follower in one empty database: none makes a view in it."""

    _held: list[duckdb.DuckDBPyConnection] = field(default_factory=list)

    def open(self) -> duckdb.DuckDBPyConnection:
        if not self._held:
            self._held.append(self.connect())
        return self._held[0].cursor()

    def release(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.close()

    @property
    def text_views(self) -> bool:
        return False


class Follower:
    """Follows a data set from a state on; `next` gives what the next step changed, piece by piece."""

    def __init__(self, find: FindTable, engine: Engine, wanted: Wanted, resume: str | None) -> None:
        """Raises InvalidError for a resume that cannot be meant, ExpiredError for an old one."""
        self._find = find
        self._engine = OneDatabase(engine.store, engine.temp, engine.kept)
        self._wanted = wanted
        self._last = LastRows()
        asked = asked_for(wanted)
        token = LiveToken() if resume is None else parse_live_token(resume, wanted)
        self._state = state_at(find, wanted.dataset, token.versions)
        self._step: Step | None = None
        if token.step is not None:
            self._step = resumed_step(find, wanted.dataset, self._state, token.step)
        self.token = replace(token, asked=asked, versions=self._state.versions)

    def look(self) -> Step | None:
        """The step that is being told, or else the next one; None: nothing has moved."""
        if self._step is None:
            dataset = self._wanted.dataset
            self._step = next_step(dataset, self._state, state_now(self._find, dataset))
        return self._step

    def tell(self, step: Step) -> Iterator[LiveBatch]:
        """The events of the step that were not told yet; then the step is over."""
        name, version = step.moved.name, step.after.pins[step.moved.name].snapshot_id
        told, found = 0, self._frames(step)
        for frame in found:
            skipped = max(self.token.at - told, 0)
            told += frame.height
            for piece in frame.slice(skipped).iter_slices(BATCH_EVENTS_MAX):
                self.token = replace(
                    self.token, seq=self.token.seq + piece.height,
                    step=(name, version), at=self.token.at + piece.height,
                )  # fmt: skip
                yield LiveBatch(piece, self._wanted, self.token)
        self._state, self._step = step.after, None
        self.token = replace(self.token, versions=step.after.versions, step=None, at=0)

    def notice(self, found: pl.DataFrame) -> LiveBatch:
        """An event beside those of steps; it is not told again."""
        self.token = replace(self.token, seq=self.token.seq + found.height)
        return LiveBatch(found, self._wanted, self.token)

    def _frames(self, step: Step) -> Iterator[pl.DataFrame]:
        if step.moved is STREAM_GAPS:
            return step_gaps(self._engine, step, self._wanted)
        return step_rows(self._engine, step, self._wanted, self._last)


def resumed_step(
    find: FindTable, dataset: Dataset, before: State, moved: tuple[str, int | None]
) -> Step:
    """The step that a token was in the middle of. Raises InvalidError, ExpiredError."""
    name, version = moved
    if name not in before.pins:
        raise InvalidError(f"resume is of {name}, not of {dataset.name}", "begin without it")
    found = state_at(find, dataset, {**before.versions, name: version})
    after = State({**before.pins, name: found.pins[name]})
    return Step(dataset, before, after, found.pins[name].shape)


class LiveRows:
    """Follows a lake on this machine. An iterator over events and a context manager.

    For one thread; `close` may be called from any.
    """

    def __init__(
        self,
        find: FindTable,
        engine: Engine,
        wanted: Wanted,
        *,
        resume: str | None = None,
        timeout_s: float | None = None,
        poll_s: float = POLL_S,
        clock: Clock | None = None,
    ) -> None:
        """timeout_s: How long after now it ends. poll_s: Between two looks at the tables."""
        if timeout_s is not None and not timeout_s >= 0:
            raise InvalidError(f"timeout_s cannot be {timeout_s}", "seconds; None: without an end")
        if not poll_s > 0:
            raise InvalidError(f"poll_s cannot be {poll_s}", "seconds, more than 0")
        self._clock = clock or SystemClock()
        self._poll_s = poll_s
        self._until_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        self._closed = threading.Event()
        self._follower = Follower(find, engine, wanted, resume)
        # That of the last event that was taken.
        self._told = self._follower.token
        self._batches = self._follow()
        self._events = self._each()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it: what iterates over it stops."""
        self._closed.set()

    @property
    def resume(self) -> str:
        """Where it is: given as `resume=`, following goes on with the next event."""
        return self._told.spell()

    def batches(self) -> Iterator[LiveBatch]:
        """The events, those that came together at once. Not beside the iteration over events."""
        return self._batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> LiveEvent:
        return next(self._events)

    def _each(self) -> Iterator[LiveEvent]:
        for batch in self._batches:
            for event in batch:
                self._told = event.token
                yield event

    @property
    def _over(self) -> bool:
        late = self._until_s is not None and self._clock.monotonic_s() >= self._until_s
        return late or self._closed.is_set()

    def _follow(self) -> Iterator[LiveBatch]:
        well_s = self._clock.monotonic_s()
        while not self._over:
            try:
                self._told = self._follower.token
                step = self._follower.look()
                if step is not None:
                    yield from self._tell(step)
            except UnavailableError:
                # What was told of the step is not told again.
                if self._clock.monotonic_s() - well_s > _PATIENCE_S:
                    raise
            else:
                well_s = self._clock.monotonic_s()
                if step is not None:
                    continue
            self._wait()

    def _tell(self, step: Step) -> Iterator[LiveBatch]:
        blocked_s = 0.0
        for batch in self._follower.tell(step):
            given_s = self._clock.monotonic_s()
            self._told = batch.token
            yield batch
            blocked_s += self._clock.monotonic_s() - given_s
            if self._over:
                return
        if blocked_s > SLOW_S:
            notice = self._follower.notice(slow_frame(blocked_s, self._behind()))
            self._told = notice.token
            yield notice

    def _behind(self) -> int:
        step = self._follower.look()
        return 0 if step is None else step.commits

    def _wait(self) -> None:
        until_s = self._clock.monotonic_s() + self._poll_s
        while not self._over and (left_s := until_s - self._clock.monotonic_s()) > 0:
            # In pieces: Polars handles SIGINT such that a long wait is never interrupted.
            self._closed.wait(min(left_s, _LOOK_MAX_S))
