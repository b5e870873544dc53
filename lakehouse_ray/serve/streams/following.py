"""Where a connection is on the way of each data set of its streams, and what the next step brings them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.query.follow import resumed_step
from lakehouse_ray.query.steps import State, Step, followed_tables, state_at
from lakehouse_ray.serve.streams.events import Event, Series
from lakehouse_ray.serve.streams.hub import Hub
from lakehouse_ray.serve.streams.names import Stream
from lakehouse_ray.serve.streams.step_events import events_of, wanted_by
from lakehouse_ray.serve.streams.tokens import marked, unmarked


class Following:
    """Not for several tasks, but for `join` and `leave`."""

    def __init__(self, hub: Hub, told: Callable[[], None]) -> None:
        """told: Called when there may be a next step."""
        self._hub = hub
        self._told = told
        # By data set: what has been told of in full.
        self._states: dict[str, State] = {}
        self._joined: dict[str, Stream] = {}

    async def join(self, stream: Stream, versions: Mapping[str, int | None]) -> None:
        """Follow a stream's data set, unless it is followed already.

        versions: Of tables, as `versions` spells them, from which on; of none of its own: from now on.

        Raises ExpiredError for a version that is not kept any more.
        """
        dataset = stream.dataset
        course = self._hub.courses.of(dataset)
        if stream.name not in self._joined:
            await course.listen(self._told, wanted_by(stream))
            self._joined[stream.name] = stream
        if dataset.name in self._states:
            return
        own = {marked(table.name, dataset.name): table.name for table in followed_tables(dataset)}
        known = {own[name]: version for name, version in versions.items() if name in own}
        state = course.state
        if known:
            find = self._hub.service.source.find
            state = await asyncio.to_thread(state_at, find, dataset, known)
        self._states.setdefault(dataset.name, state)

    def leave(self, streams: Iterable[Stream]) -> None:
        """Who comes back to a data set begins with what it is then."""
        for stream in streams:
            if self._joined.pop(stream.name, None) is not None:
                self._hub.courses.of(stream.dataset).leave(self._told, wanted_by(stream))
        kept = {stream.dataset.name for stream in self._joined.values()}
        self._states = {name: state for name, state in self._states.items() if name in kept}

    def end(self) -> None:
        self.leave(list(self._joined.values()))

    @property
    def versions(self) -> dict[str, int | None]:
        """Of all tables that are followed; of the log of gaps by data set."""
        return {
            marked(name, dataset): version
            for dataset, state in self._states.items()
            for name, version in state.versions.items()
        }

    def next_step(self) -> Step | None:
        for name in sorted(self._states):
            step = self._hub.courses.of(DATASETS[name]).after(self._states[name])
            if step is not None:
                return step
        return None

    def done(self, step: Step) -> None:
        """It has been told of in full."""
        if step.dataset.name in self._states:
            self._states[step.dataset.name] = step.after

    def behind(self, step: Step) -> int:
        """Commits of the next step after one."""
        following = self._hub.courses.of(step.dataset).after(step.after)
        return 0 if following is None else following.commits

    async def resumed(self, mark: tuple[str, int | None]) -> Step | None:
        """The step of `mark_of`; None: its streams are not here. Raises ExpiredError."""
        name, dataset = unmarked(mark[0])
        for own, state in self._states.items():
            if dataset in ("", own) and name in state.pins:
                find = self._hub.service.source.find
                return await asyncio.to_thread(
                    resumed_step, find, DATASETS[own], state, (name, mark[1])
                )
        return None

    async def events(self, step: Step, streams: Sequence[Series]) -> list[Event] | None:
        """What a step brings to streams of its data set, in order; None: too much to be held for all."""
        course = self._hub.courses.of(step.dataset)
        moved, gaps = step.moved.name, step.moved is STREAM_GAPS
        alike: dict[str | None, list[Series]] = {}
        for series in streams:
            if gaps or any(table.name == moved for table in series.stream.tables):
                alike.setdefault(series.stream.interval, []).append(series)
        events: list[Event] = []
        for some in alike.values():
            symbols = frozenset(series.stream.symbol for series in some)
            wanted = replace(wanted_by(some[0].stream), symbols=symbols)
            changes = await course.changes(step, wanted)
            if changes is None:
                return None
            for series in some:
                events += events_of(changes, step, series)
        return sorted(events, key=lambda event: event.place)


def mark_of(step: Step) -> tuple[str, int | None]:
    """A step in a token: the table that moved, and its later version."""
    name = step.moved.name
    return marked(name, step.dataset.name), step.after.pins[name].snapshot_id
