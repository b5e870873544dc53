"""`Keeper` on Ray: each worker in an actor of its own, on the node of who keeps them.

There, because a worker that follows another finds on that node's disk what the other has left.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.keepers import Ended, Told, Work
from lakehouse_ray.runtime.outcome import Failure, attempt
from lakehouse_ray.runtime.ray_metrics import measure_on_ray

# A worker that says nothing for so long is taken for lost.
_ANSWER_TIMEOUT_S = 60.0
_LOOK_S = 0.5


class RayKeeper:
    """Keeps workers in actors of the cluster this process is connected to.

    cpus: That each reserves.
    """

    def __init__(self, work: Work, *, cpus: float = 1.0) -> None:
        self._work = work
        node_id = ray.get_runtime_context().get_node_id()
        self._options: dict[str, Any] = {
            "num_cpus": cpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 4,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        self._actors: dict[int, Any] = {}
        self._looks: dict[Any, tuple[int, float]] = {}

    def start(self, number: int, task: Any) -> None:
        actor: Any = ray.remote(KeptWorker).options(**self._options).remote(self._work, task)
        self._actors[number] = actor

    def poll(self, timeout_s: float) -> list[Told | Ended]:
        said: list[Told | Ended] = []
        asked = {number for number, _ in self._looks.values()}
        for number, actor in self._actors.items():
            if number not in asked:
                self._looks[actor.look.remote()] = number, time.monotonic()
        if not self._looks:
            return said
        ready, _ = ray.wait(list(self._looks), num_returns=1, timeout=timeout_s)
        more, _ = ray.wait(list(self._looks), num_returns=len(self._looks), timeout=0)
        for look in {*ready, *more}:
            number, _since_s = self._looks.pop(look)
            said += self._hear(number, look)
        for look, (number, since_s) in list(self._looks.items()):
            if time.monotonic() - since_s > _ANSWER_TIMEOUT_S:
                del self._looks[look]
                self._lose(number)
                said.append(Ended(number, UnavailableError(f"worker {number} gives no answer")))
        if not any(isinstance(event, Ended) for event in said):
            SystemClock().sleep(min(timeout_s, _LOOK_S))
        return said

    def stop(self) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(RayError):
                actor.stop.remote()

    def kill(self) -> None:
        for number in list(self._actors):
            self._lose(number)

    def _hear(self, number: int, look: Any) -> list[Told | Ended]:
        try:
            status, ended, error = ray.get(look, timeout=1.0)
        except (RayError, GetTimeoutError) as lost:
            reason = str(lost).strip().partition("\n")[0][:200]
            self._lose(number)
            return [Ended(number, UnavailableError(f"worker {number} died: {reason}"))]
        said: list[Told | Ended] = [] if status is None else [Told(number, status)]
        if ended:
            self._lose(number)
            said.append(Ended(number, error))
        return said

    def _lose(self, number: int) -> None:
        actor = self._actors.pop(number)
        self._looks = {look: by for look, by in self._looks.items() if by[0] != number}
        with contextlib.suppress(Exception):
            ray.kill(actor, no_restart=True)


class KeptWorker:
    """The actor around one worker: its work in a thread, so that it can be asked and stopped."""

    def __init__(self, work: Work, task: Any) -> None:
        measure_on_ray()
        self._stop = threading.Event()
        self._status: Any = None
        self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(work, task), daemon=True)
        self._thread.start()

    def look(self) -> tuple[Any, bool, Exception | None]:
        """Latest status; whether the work has ended, and by which error."""
        return self._status, self._ended, self._error

    def stop(self) -> None:
        self._stop.set()

    def _run(self, work: Work, task: Any) -> None:
        said = attempt(lambda: work(task, self._stop, self._tell), "a kept worker")
        if isinstance(said, Failure):
            self._error = said.error
        self._ended = True

    def _tell(self, status: Any) -> None:
        self._status = status
