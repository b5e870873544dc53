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
from lakehouse_ray.runtime.cluster import NodeView
from lakehouse_ray.runtime.keepers import Ended, Told, Work
from lakehouse_ray.runtime.outcome import Failure, attempt
from lakehouse_ray.runtime.ray_metrics import measure_on_ray
from lakehouse_ray.runtime.session import view_cluster

# A worker that says nothing for so long is taken for lost.
_ANSWER_TIMEOUT_S = 60.0
_LOOK_S = 0.5


class RayKeeper:
    """Keeps workers in actors of the cluster this process is connected to.

    cpus: That each reserves; none on a node that has fewer for Ray in all, such as a head that is
        kept free of other work. start_timeout_s: How long one may take to come up.
    """

    def __init__(self, work: Work, *, cpus: float = 1.0, start_timeout_s: float = 60.0) -> None:
        self._work = work
        self._start_timeout_s = start_timeout_s
        node_id = ray.get_runtime_context().get_node_id()
        self._node_id = node_id
        self._cpus = cpus if self._node().cpus >= cpus else 0.0
        self._options: dict[str, Any] = {
            "num_cpus": self._cpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 4,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        self._actors: dict[int, Any] = {}
        self._looks: dict[Any, tuple[int, float]] = {}
        self._started_s: dict[int, float] = {}
        self._up: set[int] = set()
        self._never_up: list[Ended] = []  # told to end before they came up

    def start(self, number: int, task: Any) -> None:
        actor: Any = ray.remote(KeptWorker).options(**self._options).remote(self._work, task)
        self._actors[number] = actor
        self._started_s[number] = time.monotonic()

    def poll(self, timeout_s: float) -> list[Told | Ended]:
        said: list[Told | Ended] = [*self._never_up]
        self._never_up.clear()
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
        for number, since_s in list(self._looks.values()):
            waited_s = time.monotonic() - since_s
            if number in self._up and waited_s > _ANSWER_TIMEOUT_S:
                self._lose(number)
                said.append(Ended(number, UnavailableError(f"worker {number} gives no answer")))
            elif number not in self._up and waited_s > self._start_timeout_s:
                self._lose(number)
                said.append(Ended(number, self._not_up(number, waited_s), came_up=False))
        if not any(isinstance(event, Ended) for event in said):
            SystemClock().sleep(min(timeout_s, _LOOK_S))
        return said

    def stop(self) -> None:
        for number, actor in list(self._actors.items()):
            if number in self._up:
                with contextlib.suppress(RayError):
                    actor.stop.remote()
            else:  # it has begun nothing that could be ended
                waited_s = time.monotonic() - self._started_s[number]
                self._never_up.append(Ended(number, self._not_up(number, waited_s), came_up=False))
                self._lose(number)

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
        self._up.add(number)
        said: list[Told | Ended] = [] if status is None else [Told(number, status)]
        if ended:
            self._lose(number)
            said.append(Ended(number, error))
        return said

    def _node(self, *, free: bool = False) -> NodeView:
        """The node of who keeps them."""
        nodes = view_cluster(free=free).nodes
        return next((node for node in nodes if node.node_id == self._node_id), NodeView("", 0, 0))

    def _not_up(self, number: int, waited_s: float) -> UnavailableError:
        node = self._node(free=True)
        return UnavailableError(
            f"worker {number} did not come up within {waited_s:.0f} s: it takes {self._cpus:g} CPUs of "
            f"{node.ip or 'this node'}, which has {node.free.cpus:g} of {node.cpus:g} free. `ray status` "
            "shows who holds them; wait for them, ask for fewer workers, or run it where CPUs are free"
        )

    def _lose(self, number: int) -> None:
        actor = self._actors.pop(number)
        self._up.discard(number)
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
