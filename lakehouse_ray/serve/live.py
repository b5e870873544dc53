"""`/v1/live`: rows of a data set as they are committed, to whoever follows by `lake.live`.

A message is a JSON object with `events`, in their order and numbered by `seq`, and `resume`: where to
go on after the last of them. It may have no events: then only where to go on has moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace

from fastapi import APIRouter, WebSocket

from lakehouse_ray.errors import InvalidError, LakehouseError
from lakehouse_ray.query.follow import SLOW_S, resumed_step, wanted_of
from lakehouse_ray.query.live_events import slow_frame
from lakehouse_ray.query.live_token import LiveToken, asked_for, parse_live_token
from lakehouse_ray.query.step_rows import LastRows, Wanted
from lakehouse_ray.query.steps import Step, state_at
from lakehouse_ray.serve.handshake import HOLDS, SUBPROTOCOL, refuse
from lakehouse_ray.serve.problems import PROBLEM, Problem, problem_of
from lakehouse_ray.serve.streams.courses import Course, bodies_of, read_step
from lakehouse_ray.serve.streams.hub import Hub
from lakehouse_ray.serve.streams.link import Link

# Events of a message, and about so many bytes.
_EVENTS_MAX = 1_000
_BYTES_MAX = 256 << 10
# Where to go on is told so often where nothing else is: versions of live tables expire.
_MOVED_EVERY_S = 10.0
_KNOWN = ("dataset", "symbols", "interval", "market", "resume")
PATH = "/v1/live"


def router(hub: Hub) -> APIRouter:
    routes = APIRouter()

    async def live(websocket: WebSocket) -> None:
        if hub.full or hub.ending.is_set():
            busy = Problem(
                503, "busy", "there are as many connections as there may be", "try later"
            )
            request_id = websocket.scope.get("lakehouse.request_id", "")
            headers = {"Content-Type": PROBLEM, "Retry-After": "5"}
            body = busy.body(request_id, PATH)
            await refuse(websocket.scope, websocket.send, 503, body, headers)
            return
        with hub.connected():
            offered = websocket.scope.get("subprotocols", [])
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            await LiveConnection(websocket, hub).run()

    routes.add_api_websocket_route(PATH, live)
    return routes


class LiveConnection:
    def __init__(self, websocket: WebSocket, hub: Hub) -> None:
        self._query: Mapping[str, str] = websocket.query_params
        self._holds = websocket.scope.get(HOLDS)
        self._request_id: str = websocket.scope.get("lakehouse.request_id", "")
        self._hub = hub
        self._link = Link(websocket, hub, self._spelled)
        self._woken = asyncio.Event()
        self._token = LiveToken()
        self._told_resume = ""
        self._blocked_s = 0.0

    async def run(self) -> None:
        async def begin() -> None:
            pass

        await self._link.run(self._feed, (self._listen,), begin, self._holds)

    async def _listen(self) -> None:
        while True:
            # Nothing that could be said means anything; a flood is heard.
            await self._link.hear()

    async def _feed(self) -> None:
        wanted, resume = read_query(self._query)
        course = self._hub.courses.of(wanted.dataset)
        told = self._woken.set
        await course.listen(told, wanted)
        try:
            await self._follow(course, wanted, resume)
        finally:
            course.leave(told, wanted)

    async def _follow(self, course: Course, wanted: Wanted, resume: str | None) -> None:
        find, dataset = self._hub.service.source.find, wanted.dataset
        token = LiveToken() if resume is None else parse_live_token(resume, wanted)
        state = await asyncio.to_thread(state_at, find, dataset, token.versions)
        step: Step | None = None
        if token.step is not None:
            step = await asyncio.to_thread(resumed_step, find, dataset, state, token.step)
        self._token = replace(token, asked=asked_for(wanted), versions=state.versions)
        await self._tell([])
        last = LastRows()
        while True:
            if step is None:
                self._woken.clear()
                step = course.after(state)
            if step is None:
                await self._wait()
                continue
            await self._tell_step(course, step, wanted, last)
            state, step = step.after, None
            self._token = replace(self._token, versions=state.versions, step=None, at=0)

    async def _wait(self) -> None:
        """Until something is committed; and say where to go on, if that has moved."""
        told = self._told_resume
        try:
            async with asyncio.timeout(_MOVED_EVERY_S):
                await self._woken.wait()
        except TimeoutError:
            if self._token.spell() != told:
                await self._tell([])

    async def _tell_step(self, course: Course, step: Step, wanted: Wanted, last: LastRows) -> None:
        self._blocked_s = 0.0
        token = replace(
            self._token, step=(step.moved.name, step.after.pins[step.moved.name].snapshot_id)
        )
        told = 0
        async with aclosing(self._bodies(course, step, wanted, last)) as found:
            async for bodies in found:
                skipped = max(token.at - told, 0)
                told += len(bodies)
                for piece in pieces(bodies[skipped:]):
                    token = replace(token, seq=token.seq + len(piece), at=token.at + len(piece))
                    self._token = token
                    await self._tell(piece)
        if self._blocked_s > SLOW_S:
            behind = course.after(step.after)
            notice = slow_frame(self._blocked_s, 0 if behind is None else behind.commits)
            self._token = replace(self._token, seq=self._token.seq + 1)
            await self._tell(bodies_of(notice))

    async def _bodies(
        self, course: Course, step: Step, wanted: Wanted, last: LastRows
    ) -> AsyncGenerator[list[bytes], None]:
        changes = await course.changes(step, wanted)
        if changes is not None:
            yield await changes.of(wanted.symbols)
            return
        async with self._hub.large:
            engine = self._hub.service.engine()
            frames = read_step(engine, step, wanted, last)
            try:
                while (frame := await asyncio.to_thread(next, frames, None)) is not None:
                    yield await asyncio.to_thread(bodies_of, frame)
            finally:
                await asyncio.to_thread(frames.close)

    async def _tell(self, bodies: list[bytes]) -> None:
        clock = self._hub.service.clock
        self._told_resume = self._token.spell()
        first = self._token.seq - len(bodies) + 1
        events = b",".join(
            b'{"seq":%d,%s' % (number, body) for number, body in enumerate(bodies, first)
        )
        frame = b'{"resume":"%s","events":[%s]}' % (self._told_resume.encode(), events)
        began_s = clock.monotonic_s()
        await self._link.send(frame)
        self._blocked_s += clock.monotonic_s() - began_s
        for _ in bodies:
            self._hub.told.event("live")

    def _spelled(self, error: LakehouseError) -> tuple[bytes, str]:
        problem = problem_of(error)
        body = problem.body(self._request_id, PATH)
        return b'{"problem":%s}' % body, problem.detail


def read_query(given: Mapping[str, str]) -> tuple[Wanted, str | None]:
    """What is to be followed, and from where. Raises InvalidError for what cannot be meant."""
    unknown = [name for name in given if name not in _KNOWN]
    if unknown:
        raise InvalidError(
            f"there is no parameter {unknown[0][:40]!r}", f"one of {', '.join(_KNOWN)}"
        )
    wanted = wanted_of(
        given.get("dataset", "klines"), given.get("symbols"), given.get("interval"),
        given.get("market", "spot"),
    )  # fmt: skip
    return wanted, given.get("resume")


def pieces(bodies: list[bytes]) -> list[list[bytes]]:
    """Events as messages: none with too many, nor with too many bytes but by its last event."""
    found: list[list[bytes]] = []
    size = 0
    for body in bodies:
        if not found or len(found[-1]) >= _EVENTS_MAX or size > _BYTES_MAX:
            found.append([])
            size = 0
        found[-1].append(body)
        size += len(body)
    return found
