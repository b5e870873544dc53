"""Runs that end, or are overtaken, exactly around a commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.table import Table
from lakehouse_ray.pipeline.commits import TableCommitter
from lakehouse_ray.storage.committer import CommitRequest, Committer, Outcome


class Crashed(BaseException):
    """The process is gone: nothing in it may handle this."""


@dataclass
class FailingCommitter:
    """Does something around the n-th commit of the one it wraps."""

    inner: TableCommitter
    number: int
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    calls: int = 0

    def commit(self, requests: Sequence[CommitRequest]) -> list[Outcome]:
        self.calls += 1
        if self.calls == self.number and self.before:
            self.before()
        outcomes = self.inner.commit(requests)
        if self.calls == self.number and self.after:
            self.after()
        return outcomes


class FailingWriter(Writer):
    """A Writer whose committers of some tables fail; `around` is by table."""

    around: Mapping[str, Callable[[TableCommitter], TableCommitter]]

    def committer_factory(self, table: Table, run_id: str) -> Callable[[], Committer]:
        make = super().committer_factory(table, run_id)
        wrap = self.around.get(table.name)
        return (lambda: wrap(make())) if wrap else make  # type: ignore[return-value]


def crash() -> None:
    raise Crashed


def lose_the_answer() -> None:
    raise UnavailableError("the answer was lost")
