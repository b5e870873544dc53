"""The paths of the data sets: found first, and their queries checked at little cost."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, get_type_hints

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.serve.described import ROWS_RESPONSES
from lakehouse_ray.serve.rows import BarsQuery, KlinesQuery, RowsQuery, answer_rows


class RowsRoute(APIRoute):
    """Has its query checked by the model alone, where FastAPI would gather field by field first.

    endpoint: Of a request and its `query`. What it is given, and what is refused, is the same.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        model, endpoint = get_type_hints(self.endpoint)["query"], self.endpoint

        async def handler(request: Request) -> Response:
            try:
                query = model.model_validate(dict(request.query_params))
            except ValidationError as error:
                found = error.errors(include_url=False)
                raise RequestValidationError(
                    [{**one, "loc": ("query", *one["loc"])} for one in found]
                ) from error
            answer: Response = await endpoint(request, query)
            return answer

        return handler


def add_routes(app: FastAPI) -> None:
    """A path per data set, under its name in the archive and, unlisted, under that in SQL.

    Of the application itself: one in a router of its own is found by looking twice.
    """
    for dataset in DATASETS.values():
        endpoint = _endpoint(dataset)
        for name in dict.fromkeys((dataset.name, dataset.view)):
            app.router.add_api_route(
                f"/v1/{name}",
                endpoint,
                methods=["GET"],
                name=dataset.name,
                summary=f"Rows of {dataset.name}",
                description=dataset.doc,
                responses=ROWS_RESPONSES,
                response_class=Response,
                include_in_schema=name == dataset.name,
                tags=["rows"],
                operation_id=f"get_{dataset.view}",
                route_class_override=RowsRoute,
            )


def _endpoint(dataset: Dataset) -> Any:
    if dataset is KLINES:

        async def klines(request: Request, query: Annotated[KlinesQuery, Query()]) -> Response:
            return await answer_rows(request, dataset, query)

        return klines
    if dataset.bars:

        async def bars(request: Request, query: Annotated[BarsQuery, Query()]) -> Response:
            return await answer_rows(request, dataset, query)

        return bars

    async def rows(request: Request, query: Annotated[RowsQuery, Query()]) -> Response:
        return await answer_rows(request, dataset, query)

    return rows
