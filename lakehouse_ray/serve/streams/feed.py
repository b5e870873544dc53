"""The events of one connection: a replay of what is stored, then rows as they are committed.

It is pulled: the next window is read when the client has taken the one before. A slow client costs
no memory, loses nothing, and hears that it is slow; what it has not taken is in the tables. What a
commit changed is read once for all connections (`courses`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import partial

import orjson
from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.errors import InvalidError, LakehouseError
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.steps import Step
from lakehouse_ray.query.versions import spell_versions
from lakehouse_ray.serve.streams.changes import change_of, changes, touched
from lakehouse_ray.serve.streams.events import Event, Place, Series
from lakehouse_ray.serve.streams.following import Following, mark_of
from lakehouse_ray.serve.streams.history import gaps_of, history
from lakehouse_ray.serve.streams.hub import Hub
from lakehouse_ray.serve.streams.names import Stream, parse_stream
from lakehouse_ray.serve.streams.options import LATEST_US, Options
from lakehouse_ray.serve.streams.reading import ReadWindow, Window, windows
from lakehouse_ray.serve.streams.tables import open_streams, pinned_tables, snapshot_of
from lakehouse_ray.serve.streams.tokens import Token
from lakehouse_ray.serve.work import StoppableEngine

# Sends a frame: the stream, its JSON, the number of the event and where to go on.
Send = Callable[[str, bytes, int, Callable[[], Token]], Awaitable[None]]
# Of a step, spent waiting for the client.
_SLOW_S = 5.0
# Events sent without a look at anything else.
_AT_ONCE = 64
# Streams that one piece of work opens, each looking for its decimals and for a row, or whose gaps
# it looks for.
_OPENED_AT_ONCE = 64
# Notices are of no stream.
NOTICES = "lakehouse"


class Feed:
    """Not for several tasks, but for `prepare`, `add` and `remove`."""

    def __init__(self, hub: Hub, options: Options, send: Send) -> None:
        token = options.resume or Token(live=not options.replays, seq=0)
        self._hub = hub
        self._service = hub.service
        self._options = options
        self._send = send
        self.streams: dict[str, Series] = {}
        # Changes with the streams; what is read for others is read again.
        self._generation = 0
        self._woken = asyncio.Event()
        self._live = token.live
        self._seq = token.seq
        self._place: Place | None = token.place
        self._step = token.step
        self._versions: dict[str, int | None] = dict(token.versions)
        self._pinned: dict[str, IcebergTable | None] = {}
        self._following = Following(hub, self._woken.set)
        self._gaps: dict[str, list[Event]] = {}
        # Streams that were replayed to the end.
        self._over: frozenset[str] = frozenset()
        self._pace_from: tuple[float, int] | None = None
        self._blocked_s = 0.0

    async def prepare(self, names: Sequence[str]) -> list[Series]:
        """The streams of these names, so that `add` can begin to tell of them.

        Raises ProtocolError for what is no stream, or one that the lake has no rows of.
        """
        wanted = [
            parse_stream(name, self._options.market) for name in names if name not in self.streams
        ]
        try:
            for stream in wanted:
                await self._open(stream)
            found: list[Series] = []
            for first in range(0, len(wanted), _OPENED_AT_ONCE):
                found += await self._opened(wanted[first : first + _OPENED_AT_ONCE])
            return found
        except LakehouseError:
            self._following.leave(one for one in wanted if one.name not in self.streams)
            raise

    def add(self, series: Sequence[Series]) -> None:
        self.streams.update((one.stream.name, one) for one in series)
        self._touch()

    def remove(self, names: Sequence[str]) -> None:
        gone = [self.streams.pop(name).stream for name in names if name in self.streams]
        self._following.leave(gone)
        self._touch()

    def _touch(self) -> None:
        self._generation += 1
        self._woken.set()

    async def run(self) -> None:
        """Send events until a replay is over after which the connection is to be closed.

        Raises LakehouseError where it cannot go on.
        """
        try:
            if not self._live:
                await self._replay(())
                if self._options.ends:
                    await self._notice("endOfReplay")
                    if self._options.waits:
                        await self._replay_others()
                    return
                self._live, self._place = True, None
            await self._follow()
        finally:
            self._following.end()

    # What is stored

    async def _replay_others(self) -> None:
        """Replay streams that are subscribed to when the replay is over, each once."""
        while True:
            over = self._over
            while self.streams.keys() <= over:
                self._woken.clear()
                await self._woken.wait()
            self._place = self._pace_from = None
            await self._replay(over)

    async def _replay(self, over: Collection[str]) -> None:
        """Replay all streams but those that were told before."""
        within = self._options.within
        while True:
            await self._until_streams()
            generation = self._generation
            streams = [one for name, one in self.streams.items() if name not in over]
            if not streams:
                return
            gaps = await self._gaps_of(streams)
            reach_us = max(series.shape.reach_us for series in streams)
            span = self._left(TimeRange(within.start_us, within.end_us + reach_us + 1))
            pins = self._pins(streams)
            read = self._reader(lambda engine, due, most: history(
                engine, streams, pins, gaps, within, due, most  # noqa: B023 - read before the next turn
            ))  # fmt: skip
            if span is None or await self._tell(read, span, generation, self._options.speed):
                self._over |= {series.stream.name for series in streams}
                return

    async def _gaps_of(self, streams: Sequence[Series]) -> list[Event]:
        if not self._options.events:
            return []
        options = self._options
        kinds: dict[tuple[str, str | None], list[Series]] = {}
        for series in streams:
            if series.stream.name not in self._gaps:
                stream = series.stream
                kinds.setdefault((stream.kind, stream.interval), []).append(series)
        for alike in kinds.values():
            for first in range(0, len(alike), _OPENED_AT_ONCE):
                some = alike[first : first + _OPENED_AT_ONCE]
                find = partial(self._find_gaps, some, options.start_us, options.end_us)
                found = await self._hub.work(find)
                self._gaps.update((one.stream.name, []) for one in some)
                for event in found:
                    self._gaps[event.stream].append(event)
        chosen = (self._gaps[series.stream.name] for series in streams)
        return list(itertools.chain.from_iterable(chosen))

    def _find_gaps(
        self,
        alike: Sequence[Series],
        start_us: int | None,
        end_us: int | None,
        engine: StoppableEngine,
    ) -> tuple[Event, ...]:
        def find(name: str) -> IcebergTable | None:
            return self._pinned[name] if name in self._pinned else self._service.source.find(name)

        return gaps_of(engine, find, alike, start_us, end_us)

    def _left(self, span: TimeRange) -> TimeRange | None:
        """The part of a range after the last event; None: nothing of it."""
        start_us = span.start_us if self._place is None else max(span.start_us, self._place[0])
        return TimeRange(start_us, span.end_us) if start_us < span.end_us else None

    # What is committed

    async def _follow(self) -> None:
        await self._until_streams()
        await self._join_all()
        # Of streams that come later nothing was told before.
        self._versions.clear()
        await self._notice("live")
        step = None if self._step is None else await self._following.resumed(self._step)
        if step is not None:
            await self._tell_step(step)
        self._step = self._place = None
        while True:
            self._woken.clear()
            await self._join_all()
            step = self._following.next_step()
            if step is None:
                await self._woken.wait()
                continue
            self._step = mark_of(step)
            await self._tell_step(step)

    async def _join_all(self) -> None:
        for series in list(self.streams.values()):
            await self._following.join(series.stream, self._versions)

    async def _tell_step(self, step: Step) -> None:
        """Tell what a step brought to the streams."""
        self._blocked_s = 0.0
        told = False
        while not told:
            generation = self._generation
            streams = [s for s in self.streams.values() if s.stream.dataset is step.dataset]
            events = await self._following.events(step, streams)
            if events is None:
                told = await self._tell_large(step, streams, generation)
            else:
                told = await self._send_all(events, generation, None)
        self._following.done(step)
        self._step = self._place = None
        if self._blocked_s > _SLOW_S:
            waited_ms, behind = round(self._blocked_s * 1000), self._following.behind(step)
            await self._notice("slowConsumer", waitedMs=waited_ms, commitsBehind=behind)

    async def _tell_large(self, step: Step, streams: Sequence[Series], generation: int) -> bool:
        """What is too much to be held for all, window by window."""
        change = change_of(step)
        some = [series for series in streams if step.moved in series.stream.tables]
        found, span = await self._hub.work(lambda engine: touched(engine, change, some))
        span = None if span is None else self._left(span)
        if span is None:
            return generation == self._generation
        read = self._reader(lambda engine, due, most: changes(engine, change, found, due, most))
        return await self._tell(read, span, generation, None)

    # Both

    async def _tell(
        self, read: ReadWindow, span: TimeRange, generation: int, speed: float | None
    ) -> bool:
        """Send the events of a range; False: others were subscribed to meanwhile."""
        async with aclosing(windows(read, span)) as found:
            async for events in found:
                if not await self._send_all(events, generation, speed):
                    return False
        return generation == self._generation

    async def _send_all(
        self, events: Sequence[Event], generation: int, speed: float | None
    ) -> bool:
        for number, event in enumerate(events):
            if generation != self._generation:
                return False
            if self._is_told(event) or (event.extra and not self._options.events):
                continue
            if speed is not None and not await self._pace(event, generation, speed):
                return False
            self._seq += 1
            self._place = event.place
            await self._timed(event.stream, event.body)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return generation == self._generation

    def _is_told(self, event: Event) -> bool:
        try:
            return self._place is not None and event.place <= self._place
        except TypeError as error:
            raise InvalidError("resume is of other streams", "begin without it") from error

    async def _pace(self, event: Event, generation: int, speed: float) -> bool:
        """Wait until an event is due; False: others were subscribed to meanwhile."""
        clock, due_us = self._service.clock, event.place[0]
        if self._pace_from is None:
            self._pace_from = clock.monotonic_s(), due_us
        began_s, first_us = self._pace_from
        while generation == self._generation:
            wait_s = began_s + (due_us - first_us) / 1e6 / speed - clock.monotonic_s()
            if wait_s <= 0:
                return True
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
        return False

    async def _timed(self, stream: str, body: bytes) -> None:
        began_s = self._service.clock.monotonic_s()
        await self._send(stream, body, self._seq, self._token)
        self._blocked_s += self._service.clock.monotonic_s() - began_s

    async def _notice(self, kind: str, **more: object) -> None:
        if not self._options.events:
            return
        told = {name: v for name, v in self._told_versions().items() if name in self._tables()}
        body = {
            "e": kind, "E": self._service.clock.now_us() // 1000,
            "snapshots": spell_versions(told), **more,
        }  # fmt: skip
        await self._timed(NOTICES, orjson.dumps(body))

    def _token(self) -> Token:
        options, replay = self._options, not self._live
        # What ends with a version ends when it is resumed too.
        end_us = LATEST_US if options.ends and options.end_us is None else options.end_us
        return Token(
            self._live,
            self._seq,
            self._told_versions(),
            self._step,
            self._place,
            options.start_us if replay else None,
            end_us if replay else None,
        )

    def _told_versions(self) -> dict[str, int | None]:
        """By table, of the log of gaps by data set: what is replayed, or was told of in full."""
        if not self._live:
            names = self._tables()
            return {name: v for name, v in self._versions.items() if name in names}
        return self._following.versions

    def _tables(self) -> set[str]:
        return {table.name for series in self.streams.values() for table in series.stream.tables}

    async def _until_streams(self) -> None:
        while not self.streams:
            self._woken.clear()
            await self._woken.wait()

    def _reader(
        self, read: Callable[[StoppableEngine, TimeRange, int | None], Window | None]
    ) -> ReadWindow:
        async def window(due: TimeRange, rows_max: int | None) -> Window | None:
            return await self._hub.work(lambda engine: read(engine, due, rows_max))

        return window

    # Tables

    async def _open(self, stream: Stream) -> None:
        """Fix the versions from which a stream begins."""
        if self._live:
            await self._following.join(stream, self._versions)
            return
        for table in stream.tables:
            if table.name not in self._pinned:
                await asyncio.to_thread(self._pin, table)

    def _pin(self, table: Table) -> None:
        """Pin all tables that a stream can have at once: one state of the lake."""
        found = pinned_tables(self._service.source.find, self._versions, self._options.as_of)
        self._pinned.update(found)
        self._versions |= {name: snapshot_of(one) for name, one in found.items()}
        if table.name not in found:
            raise InvalidError(
                f"these versions say nothing of {table.name}", "a time as as_of names all tables"
            )

    def _pins(self, streams: Sequence[Series]) -> Mapping[str, Pin]:
        return {
            table.name: Pin(table, self._pinned[table.name], self._versions[table.name])
            for series in streams
            for table in series.stream.tables
        }

    async def _opened(self, streams: Sequence[Stream]) -> list[Series]:
        """Streams with how they are written. What was found of the tables of now holds for a while."""
        kept, micro = self._hub.opened, self._options.micro
        known = {one: kept.get((one, micro)) for one in streams} if self._live else {}
        missing = [one for one in streams if known.get(one) is None]
        if missing:
            found = await self._hub.work(partial(self._series, missing))
            known |= {series.stream: series for series in found}
        return [series for one in streams if (series := known[one]) is not None]

    def _series(self, streams: Sequence[Stream], engine: StoppableEngine) -> list[Series]:
        micro, kept = self._options.micro, self._hub.opened
        if not self._live:
            find = self._pinned.__getitem__
            return open_streams(self._service, engine, find, streams, micro=micro)
        # By now another connection may have opened them.
        known = {one: kept.get((one, micro)) for one in streams}
        missing = [one for one in streams if known[one] is None]
        find_now = self._service.source.find
        opened = (
            open_streams(self._service, engine, find_now, missing, micro=micro) if missing else []
        )
        kept.update({(series.stream, micro): series for series in opened})
        return [*opened, *(series for series in known.values() if series is not None)]
