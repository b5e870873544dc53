"""Waiting for a job of a cluster, and hearing what it says, whatever becomes of its head."""

from __future__ import annotations

from collections.abc import Iterator

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import NotFoundError, UnavailableError
from lakehouse_ray.runtime.jobs import Job, Jobs

_PAUSE_S = 1.0
# Where a machine is lost and the head lives, Ray says within this time that its jobs have failed.
_ADRIFT_S = 60.0
_LOOK_FOR_NODE_S = 10.0


class JobWatch:
    """Watches one job. silence_s_max: How long a head may say nothing until it is given up."""

    def __init__(self, jobs: Jobs, job_id: str, clock: Clock, silence_s_max: float) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._clock = clock
        self._silence_s_max = silence_s_max
        self._heard_s = clock.monotonic_s()
        self._node_asked_s = self._node_seen_s = self._heard_s

    def wait(self, timeout_s: float) -> Job:
        """Wait for its end.

        Raises UnavailableError where it has not ended within `timeout_s`, the head is silent, or the
        machine that ran it is gone; NotFoundError where the cluster knows it no more.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        while True:
            job = self._look()
            if job is not None and job.ended:
                return job
            if self._clock.monotonic_s() >= until_s:
                state = "not heard of" if job is None else job.state
                raise UnavailableError(
                    f"{self._job_id} has not ended within {timeout_s:g} s: {state}. It goes on; "
                    f"`lakehouse jobs status {self._job_id}` tells how"
                )
            self._clock.sleep(_PAUSE_S)

    def lines(self) -> Iterator[str]:
        """What it says, each line once, until it has ended. Raises what `wait` raises."""
        told = 0
        while True:
            for number, line in enumerate(self._tail()):
                # A new connection begins with the first line again.
                if number >= told:
                    told = number + 1
                    yield line
            job = self._look()
            if job is not None and job.ended:
                return
            self._clock.sleep(_PAUSE_S)

    def _tail(self) -> Iterator[str]:
        """What it says from the first line on, until the connection ends or breaks."""
        tail = self._jobs.tail(self._job_id)
        while True:
            try:
                line = next(tail)
            except (StopIteration, UnavailableError):
                return  # whether it is over, the head says, or its silence
            if line is None:
                self._look()
            else:
                self._heard_s = self._clock.monotonic_s()
                yield line

    def _look(self) -> Job | None:
        """The job as it is; None where nobody says, and may still."""
        try:
            job = self._jobs.find(self._job_id)
        except UnavailableError as error:
            if self._clock.monotonic_s() - self._heard_s < self._silence_s_max:
                # One that begins anew hears of its nodes one after the other.
                self._node_seen_s = self._clock.monotonic_s()
                return None
            raise UnavailableError(
                f"the cluster's head has not answered for {self._silence_s_max:g} s: {error}. Whether "
                f"{self._job_id} goes on is not known; `lakehouse jobs status {self._job_id}` asks "
                "again"
            ) from error
        self._heard_s = self._clock.monotonic_s()
        if job is None:
            raise NotFoundError(
                f"the cluster knows no job {self._job_id!r} any more",
                "its head began anew without what it knew; run it again, which goes on from what "
                "was committed",
            )
        if not job.ended:
            self._look_for_node()
        return job

    def _look_for_node(self) -> None:
        """A head that was lost and began anew, with its tables in Redis, has no word of who ran jobs there."""
        now_s = self._clock.monotonic_s()
        if now_s - self._node_asked_s < _LOOK_FOR_NODE_S:
            return
        self._node_asked_s = now_s
        try:
            adrift = self._jobs.is_adrift(self._job_id)
        except UnavailableError:
            adrift = False  # not known; the next look at the job says how long this may last
        if not adrift:
            self._node_seen_s = now_s
        elif now_s - self._node_seen_s >= _ADRIFT_S:
            raise UnavailableError(
                f"the machine that ran {self._job_id} is gone, and Ray still takes it for running. What it "
                f"committed stays: `lakehouse jobs stop {self._job_id}` ends it for Ray, and the same job "
                "goes on from there"
            )
