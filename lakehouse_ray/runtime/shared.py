"""One instance for a whole cluster: a plain object in an actor of its own.

What a cluster shares (a committer, a weight budget) is a plain class in its own room; workers and
driver get a proxy that looks like it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.outcome import Failure, attempt, portable
from lakehouse_ray.runtime.ray_metrics import measure_on_ray

C = TypeVar("C")

# Of instances that several jobs share.
NAMESPACE = "lakehouse"
# How long a call waits for the instance to be made anew after it died.
RESTART_TIMEOUT_S = 60.0


@contextmanager
def shared(
    factory: Callable[[], C],
    name: str,
    *,
    methods: Sequence[str],
    call_timeout_s: float = 600.0,
    pinned: bool = True,
) -> Iterator[C]:
    """Make one instance by `factory` in its own process and yield a proxy of it.

    Calls run one at a time, in the order they arrive, block until they are answered, and raise what
    the instance raises. The proxy pickles: hand it to workers freely. When its process dies, a new
    instance is made by `factory` on the same node; the call that was running is not repeated.

    name: Shown on the Ray dashboard and in errors.
    methods: Names of the methods that may be called through the proxy.
    call_timeout_s: Time one call may take, the wait for calls before it included.
    pinned: Keep the instance on this process's node, where the files are that it opens.

    Reserves no CPU, so it never waits for workers to end. Raises what `factory` raises;
    UnavailableError where the instance does not start. A call raises UnavailableError where the
    instance died or gave no answer in time: whether the call took effect is then unknown.
    """
    node_id = ray.get_runtime_context().get_node_id()
    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_concurrency": 1,
        # Ray makes it anew, so that every holder of the proxy finds the same new instance. The call
        # that was running is never repeated by itself: it may have taken effect.
        "max_restarts": -1,
        "max_task_retries": 0,
    }
    if pinned:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor: Any = ray.remote(SharedInstance).options(**options).remote(factory, name)
    proxy = _Proxy(actor, name, tuple(methods), call_timeout_s)
    try:
        proxy._ask("", (), {}, RESTART_TIMEOUT_S)
        yield cast(C, proxy)
    finally:
        with contextlib.suppress(Exception):
            ray.kill(actor, no_restart=True)


@contextmanager
def shared_by_all(
    factory: Callable[[], C],
    name: str,
    *,
    methods: Sequence[str],
    call_timeout_s: float = 60.0,
) -> Iterator[C]:
    """As `shared`, but one instance of that name for all jobs of the cluster.

    Whoever comes first makes it by `factory`; it stays until the cluster ends, since another job may
    be using it. It runs on any node.
    """
    actor: Any = (
        ray.remote(SharedInstance)
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_concurrency=1,
            max_restarts=-1,
            max_task_retries=0,
        )
        .remote(factory, name)
    )
    proxy = _Proxy(actor, name, tuple(methods), call_timeout_s)
    proxy._ask("", (), {}, RESTART_TIMEOUT_S)
    yield cast(C, proxy)


@contextmanager
def unshared(factory: Callable[[], C], name: str) -> Iterator[C]:
    """Yield the instance itself: the twin of `shared` for a run inside one process.

    Threads call it at the same time, so its class must bear that.
    """
    del name
    yield factory()


class SharedInstance:
    """The actor around one instance. No method may be a coroutine, see `workers.PoolWorker`."""

    def __init__(self, factory: Callable[[], Any], name: str) -> None:
        measure_on_ray()
        self._where = f"{name}, process {os.getpid()}"
        # A failure is kept and told to every caller: raised here, it would end the process, and Ray
        # would try again without end.
        self._instance = attempt(factory, self._where)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call `method`, or nothing where it is empty."""
        if isinstance(self._instance, Failure) or not method:
            return self._instance if isinstance(self._instance, Failure) else None
        return attempt(lambda: getattr(self._instance, method)(*args, **kwargs), self._where)


class _Proxy:
    """Stands for the instance, in any process of the cluster."""

    def __init__(
        self, actor: Any, name: str, methods: tuple[str, ...], call_timeout_s: float
    ) -> None:
        self._actor = actor
        self._name = name
        self._methods = methods
        self._call_timeout_s = call_timeout_s
        self._down = False

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_") or method not in self._methods:
            raise AttributeError(f"the shared {self.__dict__.get('_name')} has no {method!r}")

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._down:
                self._wait_until_up()
            return self._ask(method, args, kwargs, self._call_timeout_s)

        return call

    def __reduce__(self) -> tuple[Any, ...]:
        return _Proxy, (self._actor, self._name, self._methods, self._call_timeout_s)

    def _ask(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float
    ) -> Any:
        what = f"{self._name}.{method}" if method else self._name
        try:
            answer = ray.get(self._actor.call.remote(method, args, kwargs), timeout=timeout_s)
        except RayTaskError as error:  # arguments or an answer that do not pickle
            raise portable(error.cause if isinstance(error.cause, Exception) else error) from error
        except GetTimeoutError as error:
            raise UnavailableError(
                f"{what} gave no answer in {timeout_s:g} s; outcome unknown"
            ) from error
        except RayError as error:
            self._down = True
            raise UnavailableError(
                f"the process of {what} died during the call; outcome unknown"
            ) from error
        if isinstance(answer, Failure):
            raise answer.error
        return answer

    def _wait_until_up(self) -> None:
        """Wait until the new instance answers. A call sent to one that restarts fails at once."""
        until = time.monotonic() + RESTART_TIMEOUT_S
        while True:
            try:
                ray.get(self._actor.call.remote("", (), {}), timeout=RESTART_TIMEOUT_S)
            except ActorUnavailableError as error:
                if time.monotonic() > until:
                    raise UnavailableError(f"{self._name} was not made anew") from error
                SystemClock().sleep(0.05)
            except RayError as error:
                reason = str(error).strip().partition("\n")[0]
                raise UnavailableError(
                    f"the process of {self._name} died and was not made anew ({reason}); its node "
                    "may be lost"
                ) from error
            else:
                self._down = False
                return
