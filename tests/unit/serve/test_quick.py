"""Statements of the service share one database, and nothing else."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.problems import DeadlineError
from lakehouse_ray.serve.service import Service, Source
from lakehouse_ray.storage.objects import LocalStore

VIEW = VIEWS["silver.klines_coarse"]
QUERY = "SELECT n FROM silver.klines_coarse"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(
        Source(lambda name: None, lambda names: {}, LocalStore(tmp_path), tmp_path), Limits()
    )


def attached(service: Service) -> int:
    rows = (
        service.quick()
        ._database.execute(
            "SELECT count(*) FROM duckdb_databases() WHERE database_name LIKE 'question%'"
        )
        .fetchall()
    )
    return int(rows[0][0])


def test_questions_see_their_own_views_alone_and_leave_none(service: Service) -> None:
    results = [
        service.engine().run(QUERY, [VIEW], {VIEW.name: f"SELECT {n} AS n"}) for n in range(3)
    ]
    assert attached(service) == 3
    assert [result.pl()["n"].to_list() for result in results] == [[0], [1], [2]]
    with pytest.raises(InvalidError):
        service.engine().run(QUERY, [], {})
    results[1].close()
    results[1].close()
    assert attached(service) == 2
    assert results[2].pl()["n"].to_list() == [2]
    for result in results:
        result.close()
    assert attached(service) == 0


def test_a_question_that_is_stopped_leaves_nothing_and_stops_no_other(service: Service) -> None:
    engine, other = service.engine(), service.engine()
    frame = pl.DataFrame({"n": range(100_000)})
    with other.hold(frame) as there:
        with engine.hold(frame) as held:
            assert next(held.fetch_batches(1000)).num_rows == 1000
            engine.stop(DeadlineError("it took too long"))
            with pytest.raises(DeadlineError):
                engine.hold(frame)
        assert attached(service) == 1
        assert there.pl()["n"].sum() == frame["n"].sum()
    assert attached(service) == 0
