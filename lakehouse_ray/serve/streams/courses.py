"""The way of a data set's tables from commit to commit, looked at and read once for all who follow it.

What a commit changed is worked out when the first one asks and handed to all others from memory. So
its cost is of the tables, and not of the connections. Whoever is elsewhere on the way (slow, resumed)
asks for the steps that are its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Hashable
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import orjson
import polars as pl
import structlog

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.query.pins import FindTable
from lakehouse_ray.query.step_gaps import step_gaps
from lakehouse_ray.query.step_rows import CAUSE, EVENT, WAS, LastRows, Wanted, step_rows
from lakehouse_ray.query.steps import State, Step, next_step, state_now
from lakehouse_ray.query.wire import ndjson_bytes
from lakehouse_ray.serve.problems import DeadlineError
from lakehouse_ray.serve.work import StoppableEngine

T = TypeVar("T")

_log = structlog.get_logger()

# Changes of a step that are held in memory for all; of more, each one reads its own, piece by piece.
SHARED_EVENTS_MAX = 20_000
# Of all steps of a data set that are held; at about 2 kB each, with its JSON.
_KEPT_EVENTS_MAX = 100_000
_STEPS_KEPT_MAX = 300


class Does(Protocol):
    """Does work in a thread, in its turn."""

    async def __call__(self, work: Callable[[StoppableEngine], T]) -> T: ...


class Changes:
    """What a step changed of the rows of one market, in the order of time. For all symbols wanted."""

    def __init__(self, wanted: Wanted, found: pl.DataFrame) -> None:
        self.wanted = wanted
        self.found = found
        # Events of streams that were made of it, by stream and how it is written.
        self.made: dict[Hashable, list[Any]] = {}
        self._bodies: list[bytes] | None = None
        self._spelling = asyncio.Lock()

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """By symbol: which of the changes are its."""
        found: dict[str, list[int]] = {}
        for place, symbol in enumerate(symbols_of(self.found)):
            found.setdefault(symbol, []).append(place)
        return found

    async def of(self, symbols: frozenset[str] | None) -> list[bytes]:
        """The changes of some symbols in their order, as JSON (`bodies_of`)."""
        async with self._spelling:
            if self._bodies is None:
                self._bodies = await asyncio.to_thread(bodies_of, self.found)
        if symbols is None:
            return self._bodies
        chosen = sorted(place for s in symbols for place in self.places.get(s, ()))
        return [self._bodies[place] for place in chosen]


def symbols_of(found: pl.DataFrame) -> list[str]:
    if f"{WAS}symbol" in found.columns:
        return found.select(pl.coalesce("symbol", f"{WAS}symbol")).to_series().to_list()
    return found["symbol"].to_list()


def bodies_of(found: pl.DataFrame) -> list[bytes]:
    """Events as JSON, each without its number and the brace before it: `"event":"row",…}`."""
    names = [name for name in found.columns if not name.startswith(("_", WAS))]
    now = _objects(found.select(names))
    earlier = [f"{WAS}{name}" for name in names]
    was: list[bytes] | None = None
    if found[CAUSE].is_in(["changed", "removed"]).any():
        was = _objects(
            found.select(pl.col(e).alias(n) for e, n in zip(earlier, names, strict=True))
        )
    bodies = []
    for place, (event, cause) in enumerate(zip(found[EVENT], found[CAUSE], strict=True)):
        head = b'"event":"' + event.encode() + b'"'
        if cause is not None:
            head += b',"cause":"' + cause.encode() + b'"'
        if cause in ("changed", "removed"):
            assert was is not None
            head += b',"was":' + was[place]
        head += b',"row":' + (b"null" if cause == "removed" else now[place])
        bodies.append(head + b"}")
    return bodies


def _objects(frame: pl.DataFrame) -> list[bytes]:
    if not frame.height:
        return []
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    # Line breaks inside of texts are escaped: each of these ends a row.
    return b"".join(map(ndjson_bytes, table.to_batches())).split(b"\n")[:-1]


class Course:
    """The way of one data set. Not for several event loops."""

    def __init__(self, find: FindTable, dataset: Dataset, every_s: float, does: Does) -> None:
        self._find = find
        self._dataset = dataset
        self._every_s = every_s
        self._does = does
        self._listeners: list[Callable[[], None]] = []
        self._looking: asyncio.Task[None] | None = None
        self._state: State | None = None
        # By the versions from which they go on.
        self._steps: OrderedDict[str, Step] = OrderedDict()
        self._ways: dict[tuple[str, str | None], _Way] = {}

    @property
    def idle(self) -> bool:
        return not self._listeners

    @property
    def state(self) -> State:
        """As it was last seen. Only while somebody listens."""
        assert self._state is not None
        return self._state

    async def listen(self, told: Callable[[], None], wanted: Wanted) -> None:
        """Call `told` after each step. Returns when the tables have been looked at.

        Raises LakehouseError where they cannot be.
        """
        if self._looking is None:
            seen = await asyncio.to_thread(state_now, self._find, self._dataset)
            # Another one may have been quicker, and knows what it saw.
            if self._looking is None:
                self._state = seen
                self._steps.clear()
                self._looking = asyncio.ensure_future(self._watch())
        self._listeners.append(told)
        self._way(wanted).join(wanted)

    def leave(self, told: Callable[[], None], wanted: Wanted) -> None:
        if told not in self._listeners:
            return
        self._listeners.remove(told)
        self._way(wanted).leave(wanted)
        if self.idle and self._looking is not None:
            self._looking.cancel()
            self._looking = None
            self._ways.clear()
            self._steps.clear()

    def after(self, state: State) -> Step | None:
        """The next step from a state; None: there was none yet. A state may be ahead of what was seen
        here: a token of another process, or a look of its own."""
        known = self._steps.get(_name(state))
        return known or next_step(self._dataset, state, self.state)

    async def changes(self, step: Step, wanted: Wanted) -> Changes | None:
        """What a step changed; None: so much that whoever wants it has to read its own."""
        return await self._way(wanted).changes(step, wanted, self._does)

    def _way(self, wanted: Wanted) -> _Way:
        return self._ways.setdefault((wanted.market, wanted.interval), _Way())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                now = await asyncio.to_thread(state_now, self._find, self._dataset)
            except Exception as error:  # noqa: BLE001 - the next look may find it well again
                _log.warning(
                    "a data set cannot be watched", dataset=self._dataset.name, reason=str(error)
                )
                continue
            moved = False
            while (step := next_step(self._dataset, self.state, now)) is not None:
                self._steps[_name(step.before)] = step
                self._state, moved = step.after, True
            while len(self._steps) > _STEPS_KEPT_MAX:
                self._steps.popitem(last=False)
            if moved:
                for told in list(self._listeners):
                    told()


class _Way:
    """One market of a data set (of bars, at one interval): who wants which symbols, and what the last
    steps changed of these."""

    def __init__(self) -> None:
        self._symbols: Counter[str] = Counter()
        self._all = 0
        self._last = LastRows()
        # Steps in their order mostly; LastRows is for one thread at a time.
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], asyncio.Future[Changes | None]] = OrderedDict()
        self._sizes: deque[tuple[tuple[str, str], int]] = deque()

    def join(self, wanted: Wanted) -> None:
        self._all += wanted.symbols is None
        self._symbols.update(wanted.symbols or ())

    def leave(self, wanted: Wanted) -> None:
        self._all -= wanted.symbols is None
        for symbol in wanted.symbols or ():
            self._symbols[symbol] -= 1
            if not self._symbols[symbol]:
                del self._symbols[symbol]

    async def changes(self, step: Step, wanted: Wanted, does: Does) -> Changes | None:
        key = _name(step.before), _name(step.after)
        while (known := self._kept.get(key)) is not None:
            try:
                found = await asyncio.shield(known)
            except asyncio.CancelledError:
                if not known.cancelled():
                    raise
                continue  # whoever worked on it has gone
            if found is None or _covers(found.wanted, wanted):
                return found
            self._kept.pop(key, None)
        every = replace(wanted, symbols=None if self._all else frozenset(self._symbols))
        working = asyncio.ensure_future(self._within_time(step, every, does))
        self._kept[key] = working
        try:
            found = await asyncio.shield(working)
        except asyncio.CancelledError:
            raise
        except BaseException:
            # The next one tries again.
            self._kept.pop(key, None)
            raise
        self._forget(key, 0 if found is None else found.found.height)
        return found

    async def _within_time(self, step: Step, wanted: Wanted, does: Does) -> Changes | None:
        try:
            return await does(lambda engine: self._read(engine, step, wanted))
        except DeadlineError:
            # Too much for one question: whoever wants it reads its own, in smaller ones.
            _log.warning("a step is read piece by piece", table=step.moved.name)
            return None

    def _forget(self, key: tuple[str, str], events: int) -> None:
        """Keep the last steps alone."""
        self._sizes.append((key, events))
        while len(self._sizes) > 1 and (
            sum(size for _, size in self._sizes) > _KEPT_EVENTS_MAX
            or len(self._sizes) > _STEPS_KEPT_MAX
        ):
            self._kept.pop(self._sizes.popleft()[0], None)

    def _read(self, engine: StoppableEngine, step: Step, wanted: Wanted) -> Changes | None:
        with self._lock:
            frames, count = [], 0
            with closing(read_step(engine, step, wanted, self._last)) as found:
                for frame in found:
                    frames.append(frame)
                    count += frame.height
                    if count > SHARED_EVENTS_MAX:
                        return None
        if not frames:
            return Changes(wanted, _NOTHING)
        return Changes(wanted, pl.concat(frames))


_NOTHING = pl.DataFrame(schema={EVENT: pl.String(), CAUSE: pl.String(), "symbol": pl.String()})


def read_step(
    engine: StoppableEngine, step: Step, wanted: Wanted, last: LastRows
) -> Generator[pl.DataFrame, None, None]:
    """Changes of a step, of rows or of the log of gaps."""
    if step.moved is STREAM_GAPS:
        yield from step_gaps(engine, step, wanted)
    else:
        yield from step_rows(engine, step, wanted, last)


def _covers(known: Wanted, wanted: Wanted) -> bool:
    if known.symbols is None:
        return True
    return wanted.symbols is not None and wanted.symbols <= known.symbols


def _name(state: State) -> str:
    return orjson.dumps(state.versions).decode()


class Courses:
    """All courses of a process, by data set."""

    def __init__(self, find: FindTable, every_s: float, does: Does) -> None:
        self._find = find
        self._every_s = every_s
        self._does = does
        self._known: dict[str, Course] = {}

    @property
    def watching(self) -> int:
        """Tables that are looked at."""
        active = (course for course in self._known.values() if not course.idle)
        return sum(len(course.state.pins) for course in active)

    def of(self, dataset: Dataset) -> Course:
        if dataset.name not in self._known:
            made = Course(self._find, dataset, self._every_s, self._does)
            self._known[dataset.name] = made
        return self._known[dataset.name]
