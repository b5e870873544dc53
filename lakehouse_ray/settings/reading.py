"""Settings of reading and of the query service."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from lakehouse_ray.settings.section import Section


class QuerySettings(Section):
    """Reading."""

    verify_files: bool = Field(
        False,
        description="Hold the pages of a file against their checksums before a statement first reads "
        "it in a process; DuckDB does not. Reads of one symbol's rows always do.",
    )


class ServeSettings(Section):
    """The query service; limits are of each of its processes."""

    host: str = Field(
        "127.0.0.1",
        description="Address it listens at. Any other than this machine's own loopback needs keys.",
    )
    port: int = Field(8080, ge=0, le=65535, description="0 takes a free one.")
    keys_file: str = Field(
        "",
        description="Where `lakehouse keys` keeps the hashes of API keys. Empty: "
        "`$LAKEHOUSE_HOME/keys.json`.",
    )
    require_keys: bool = Field(
        False, description="Ask for a key on loopback too; at any other address it is always asked."
    )
    jobs: bool = Field(
        False,
        description="Take jobs at `/v1/jobs` (docs/serving.md); on Ray alone. Of keys, those that "
        "were created with `--may jobs` may submit them.",
    )
    replicas_min: int = Field(1, ge=1, description="Processes that answer, on Ray.")
    replicas_max: int = Field(
        4,
        ge=1,
        description="Up to so many, by load: processors over 70 %, memory over 80 %, or more than 100 "
        "questions waiting.",
    )
    replica_cpus: float = Field(1.0, gt=0, description="CPUs of one, as Ray counts them.")
    rows_max: int = Field(
        100_000, ge=1, description="Rows of an answer in JSON, NDJSON or CSV; more are pages."
    )
    binary_rows_max: int = Field(
        10_000_000, ge=1, description="Rows of an answer in Arrow or Parquet."
    )
    answer_bytes_max: int = Field(
        256 << 20, ge=1 << 10, description="Bytes of an answer; it is complete before it is sent."
    )
    statement_timeout_s: float = Field(
        30.0, gt=0, description="From a request to its complete answer, waiting included."
    )
    send_timeout_s: float = Field(
        60.0, gt=0, description="A client that takes no byte for so long is given up."
    )
    body_bytes_max: int = Field(1 << 20, ge=1 << 10, description="Bytes of a request's body.")
    statements: int = Field(4, ge=1, le=256, description="Questions worked on at once.")
    sql_statements: int = Field(
        1,
        ge=0,
        le=64,
        description="Processes that run statements of `/v1/sql`, one at a time each. 0: no SQL.",
    )
    sql_unconfined: bool = Field(
        False,
        description="Take SQL also where the system has no Landlock to keep files and network from its "
        "processes; DuckDB's own locks are left then.",
    )
    sql_files_bytes_max: int = Field(
        4 << 30,
        ge=0,
        description="Where the lake is in a bucket: bytes of its files that are copied to "
        "`$LAKEHOUSE_HOME/tmp` for statements of `/v1/sql`. 0: no SQL there.",
    )
    waiting_max: int = Field(
        100, ge=0, description="Questions that wait for these; more are turned away with 503."
    )
    cache_bytes: int = Field(
        64 << 20, ge=0, description="Memory for answers that may be asked for again."
    )
    cache_store_bytes: int = Field(
        1 << 30,
        ge=0,
        description="Room for large ones (over 1 MiB) in the lake's own store, below `cache/answers`, "
        "of all processes together. 0: none are kept there.",
    )
    cache_ttl_s: int = Field(
        86_400, ge=1, description="Answers in Redis and in the store are forgotten after so long."
    )
    closed_days_held_s: int = Field(
        60,
        ge=0,
        le=86_400,
        description="Clients need not ask again so long about rows of days that are over "
        "(Cache-Control: immutable). 0: they ask each time whether something was committed.",
    )
    redis_url: SecretStr = Field(
        SecretStr(""),
        description="A Redis in which processes share small answers: redis://, rediss:// or unix://. "
        "May hold a password, so never printed. Empty: none.",
    )
    redis_timeout_s: float = Field(
        0.05,
        gt=0,
        le=5,
        description="Redis has so long to answer; then the service goes on without it.",
    )
    statement_memory_mb: int = Field(
        1024, ge=64, description="Memory of one statement; beyond it, it spills to disk."
    )
    stream_connections_max: int = Field(
        200, ge=0, description="Websockets open at once; more are turned away with 503."
    )
    streams_max: int = Field(
        1024, ge=1, le=10_000, description="Streams of one websocket, as at the exchange."
    )
    stream_poll_s: float = Field(
        0.25,
        ge=0.05,
        description="Between two looks at the tables of a data set for what was committed.",
    )
    stream_ping_s: float = Field(
        20.0, gt=0, description="A websocket's client is pinged so often (on Ray as Ray does)."
    )
    stream_pong_s: float = Field(
        60.0, gt=0, description="One that does not answer a ping for so long is closed."
    )
    stream_messages_per_s: int = Field(
        10, ge=1, description="Messages that a websocket's client may send in a second."
    )
    origins: str = Field(
        "",
        description="Web pages of other places that may open a websocket, with commas, such as "
        "`https://charts.example`. A page of the service's own address always may.",
    )

    @model_validator(mode="after")
    def _redis_can_be_asked(self) -> ServeSettings:
        url = self.redis_url.get_secret_value().strip()
        if url and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("redis_url must be redis://…, rediss://… or unix://…")
        object.__setattr__(self, "redis_url", SecretStr(url))
        return self
