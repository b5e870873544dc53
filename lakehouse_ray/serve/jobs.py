"""`/v1/jobs`: the lake's workflows as Ray jobs, submitted, watched and stopped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Body, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.workflows import Workflow
from lakehouse_ray.runtime.jobs import JobState
from lakehouse_ray.serve.answers import respond
from lakehouse_ray.serve.described import JOB_RESPONSES
from lakehouse_ray.serve.formats import VERSION, Format, hold_bytes
from lakehouse_ray.serve.job_desk import LOG_LINES_MAX, JobDesk
from lakehouse_ray.serve.problems import MediaTypeError, NotAllowedError

# What a key must be allowed (`lakehouse keys create --may jobs`).
MAY = "jobs"
_TAIL = 1000

routes = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class JobDocument(BaseModel):
    """A job. `state` in Ray's words; times are UTC; exit codes are those of the commands."""

    id: str
    workflow: str
    parameters: dict[str, Any]
    state: JobState
    submitted: str | None
    ended: str | None
    exit_code: int | None
    message: str
    by: str | None = Field(description="Id of the key that submitted it.")
    links: dict[str, str]


class JobsDocument(BaseModel):
    """Jobs, the latest first; `next` goes into `before` for the next page."""

    v: int
    jobs: list[JobDocument]
    next: str | None


class LogDocument(BaseModel):
    """Lines of a log, secrets hidden. The first has the number `offset`; `next` goes on."""

    v: int
    id: str
    state: JobState
    offset: int
    next: int
    lines: list[str]


class _JobsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    workflow: Literal["ingest", "update", "fold", "build", "quality", "maintain"] | None = Field(
        None, description="Only these."
    )
    state: JobState | None = Field(None, description="Only these.")
    limit: int = Field(50, ge=1, le=500, description="Jobs of one page.")
    before: str | None = Field(
        None, min_length=1, max_length=120, description="`next` of the page before."
    )


class _LogQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tail: int | None = Field(
        None, ge=1, le=LOG_LINES_MAX, description=f"Last lines. Without any: {_TAIL:,}."
    )
    offset: int | None = Field(
        None, ge=0, le=10**9, description="Number of the first line, from 0; `next` of before."
    )
    limit: int = Field(_TAIL, ge=1, le=LOG_LINES_MAX, description="Lines from `offset` on.")

    @model_validator(mode="after")
    def _one_of_them(self) -> _LogQuery:
        if self.tail is not None and self.offset is not None:
            raise InvalidError("tail and offset exclude each other")
        return self


JobId = Annotated[
    str,
    Path(
        description="As it was told when it was submitted.",
        examples=["ingest-spot-klines-1m-20260105T120000-5f0c9a21"],
    ),
]


class _Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


_EXAMPLES: Any = {
    "ingest": {
        "value": {
            "workflow": "ingest", "market": "spot", "dataset": "klines", "interval": "1m",
            "symbols": ["BTCUSDT", "ETHUSDT"], "start": "2024-01", "end": "2024-07",
        }
    },
    "quality": {"value": {"workflow": "quality", "market": "spot", "dataset": "klines"}},
    "build": {"value": {"workflow": "build", "products": ["daily"], "markets": ["spot"]}},
}  # fmt: skip


@routes.post(
    "",
    status_code=201,
    responses={
        **JOB_RESPONSES,
        200: {"description": "The job of this Idempotency-Key, as before", "model": JobDocument},
        201: {"description": "Submitted. Header: Location", "model": JobDocument},
    },
    summary="Submit a workflow as a Ray job",
    response_class=Response,
)
async def submit(
    request: Request,
    body: Annotated[Workflow, Body(openapi_examples=_EXAMPLES)],
    _: Annotated[_Nothing, Query()],
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=200,
            pattern=r"^[!-~]+$",
            description="Your name for this one request: sent again with it, it is not run again.",
        ),
    ] = None,
) -> Response:
    desk = _desk(request)
    # A web page may send other types to anywhere without asking first.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise MediaTypeError("the body is JSON", "Content-Type: application/json")
    by = request.scope.get("lakehouse.key")
    job, is_new = await desk.run(lambda: desk.submit(body, by, idempotency_key))
    document = desk.document(job)
    return _json(document, 201 if is_new else 200, {"Location": document["links"]["self"]})


@routes.get(
    "",
    responses={**JOB_RESPONSES, 200: {"description": "A page of jobs", "model": JobsDocument}},
    summary="Jobs, the latest first",
    response_class=Response,
)
async def list_jobs(request: Request, query: Annotated[_JobsQuery, Query()]) -> Response:
    desk = _desk(request)
    found = [
        document
        for document in map(desk.document, await desk.run(desk.all))
        if query.workflow in (None, document["workflow"])
        and query.state in (None, document["state"])
    ]
    ids = [document["id"] for document in found]
    if query.before is not None and query.before not in ids:
        raise NotFoundError(
            f"no page begins before {query.before!r}", "ask for the first one again, without before"
        )
    first = 0 if query.before is None else ids.index(query.before) + 1
    shown = found[first : first + query.limit]
    more = first + query.limit < len(found)
    following = shown[-1]["id"] if more else None
    return _json({"v": VERSION, "jobs": shown, "next": following})


@routes.get(
    "/{job_id}",
    responses={**JOB_RESPONSES, 200: {"description": "The job as it is", "model": JobDocument}},
    summary="One job",
    response_class=Response,
)
async def get_job(request: Request, job_id: JobId, _: Annotated[_Nothing, Query()]) -> Response:
    desk = _desk(request)
    return _json(desk.document(await desk.run(lambda: desk.find(job_id))))


@routes.get(
    "/{job_id}/logs",
    responses={**JOB_RESPONSES, 200: {"description": "Lines", "model": LogDocument}},
    summary="What a job says",
    response_class=Response,
)
async def get_log(
    request: Request, job_id: JobId, query: Annotated[_LogQuery, Query()]
) -> Response:
    desk = _desk(request)
    # Its state first: where that is an end, nothing more is said after these lines.
    job = await desk.run(lambda: desk.find(job_id))
    lines_max = query.limit if query.offset is not None else query.tail or _TAIL
    part = await desk.run(lambda: desk.log(job_id, query.offset, lines_max))
    return _json(
        {
            "v": VERSION, "id": job.id, "state": job.state, "offset": part.offset,
            "next": part.next, "lines": part.lines,
        }
    )  # fmt: skip


@routes.post(
    "/{job_id}/stop",
    status_code=202,
    responses={
        **JOB_RESPONSES,
        202: {"description": "It is asked to end, or has ended", "model": JobDocument},
    },
    summary="End a job",
    response_class=Response,
)
async def stop_job(request: Request, job_id: JobId, _: Annotated[_Nothing, Query()]) -> Response:
    """What it has committed stays, and running it again goes on from there."""
    desk = _desk(request)
    return _json(desk.document(await desk.run(lambda: desk.stop(job_id))), 202)


def _desk(request: Request) -> JobDesk:
    """Raises NotFoundError where this service takes no jobs, NotAllowedError for other keys."""
    found: JobDesk | str = request.app.state.jobs
    if isinstance(found, str):
        raise NotFoundError("this service takes no jobs", found)
    may = request.scope.get("lakehouse.may")
    if may is not None and MAY not in may:
        raise NotAllowedError(
            f"this key may not submit or see jobs; `lakehouse keys create NAME --may {MAY}` "
            "makes one that may"
        )
    return found


def _json(
    document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    whole = hold_bytes(orjson.dumps(document), Format.JSON)
    told = {"Cache-Control": "no-store", "Content-Digest": whole.digest, **(headers or {})}
    answer = respond(whole, told)
    answer.status_code = status
    return answer
