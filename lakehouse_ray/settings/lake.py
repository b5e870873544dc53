"""Settings of where data comes from, where it is kept, how it is worked on and what is told of it."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, SecretStr, model_validator

from lakehouse_ray.settings.section import Section, check_url

REAL_ARCHIVE_URL = "https://data.binance.vision"
REAL_LISTING_URL = "https://s3-ap-northeast-1.amazonaws.com/data.binance.vision"

ProfileName = Literal["small", "medium", "large", "xlarge"]


class BinanceSettings(Section):
    """The exchange's addresses."""

    archive_url: str = Field(REAL_ARCHIVE_URL, description="Where the archive's objects are read.")
    listing_url: str = Field(
        "",
        description="Where the archive's bucket is listed. Empty: the real archive's S3 endpoint, "
        "or `archive_url` where that is not the real archive.",
    )
    spot_url: str = Field("https://api.binance.com", description="REST, spot.")
    um_url: str = Field("https://fapi.binance.com", description="REST, USD-M futures.")
    cm_url: str = Field("https://dapi.binance.com", description="REST, COIN-M futures.")
    api_key: SecretStr = Field(
        SecretStr(""),
        description="For what the exchange tells only to who has one (old trades). Never printed.",
    )
    stream_url: str = Field("wss://data-stream.binance.vision", description="Websocket, spot.")
    um_stream_url: str = Field("wss://fstream.binance.com", description="Websocket, USD-M futures.")
    cm_stream_url: str = Field(
        "wss://dstream.binance.com", description="Websocket, COIN-M futures."
    )

    @model_validator(mode="after")
    def _listing_follows_archive(self) -> BinanceSettings:
        if not self.listing_url:
            real = self.archive_url.rstrip("/") == REAL_ARCHIVE_URL
            object.__setattr__(self, "listing_url", REAL_LISTING_URL if real else self.archive_url)
        for name in type(self).model_fields:
            if not name.endswith("_url"):
                continue
            value = str(getattr(self, name))
            if not value.startswith(("http://", "https://", "ws://", "wss://")):
                raise ValueError(f"{name} must start with http:// or https://, not {value!r}")
            object.__setattr__(self, name, value.rstrip("/"))
        key = self.api_key.get_secret_value()
        if not (key.isascii() and key.isprintable()):
            raise ValueError("api_key must be printable ASCII")
        return self


class S3Settings(Section):
    """How an S3 store is reached. Empty values fall back to the AWS environment and profiles."""

    endpoint_url: str = Field("", description="Empty: AWS itself.")
    region: str = Field("", description="Empty: from the AWS environment.")
    access_key_id: str = Field("", description="Empty: from the AWS environment.")
    secret_access_key: SecretStr = Field(SecretStr(""), description="Never printed.")


class StorageSettings(Section):
    root: str = Field(
        "", description="A path or s3://bucket/prefix. Empty: `$LAKEHOUSE_HOME/data`."
    )
    s3: S3Settings = S3Settings()


class CatalogSettings(Section):
    uri: str = Field(
        "",
        description="sqlite:///… or postgresql://…. Empty: `sqlite:///$LAKEHOUSE_HOME/catalog.db`.",
    )


class IngestSettings(Section):
    requests_in_flight: int = Field(
        16,
        ge=1,
        le=256,
        description="HTTP requests at once, per worker; raise it with the latency.",
    )
    listing_requests_in_flight: int = Field(
        16, ge=1, le=256, description="Listing requests at once."
    )
    request_timeout_s: float = Field(
        60.0, gt=0, description="One request without any byte for so long fails."
    )
    retry_attempts_max: int = Field(8, ge=1, le=100, description="Times one request is tried.")
    retry_budget_s: float = Field(
        180.0, gt=0, description="Time one request may spend on waiting between its attempts."
    )
    quarantine_attempts_max: int = Field(
        3,
        ge=1,
        description="Runs that fetch a refused object again before it is left alone until it changes.",
    )
    unit_bytes_max: int = Field(
        32 << 20,
        ge=1 << 16,
        description="Compressed bytes a unit of work may hold, if it has more than one symbol.",
    )
    units_per_commit: int = Field(32, ge=1, description="Finished units that share one snapshot.")
    unit_attempts_max: int = Field(3, ge=1, description="Times a unit is tried on other workers.")
    unit_deadline_s: float = Field(
        1800.0, gt=0, description="A unit that takes longer is given to another worker."
    )
    large_object_bytes: int = Field(
        64 << 20, ge=1 << 16, description="Objects larger than this pass through disk, not memory."
    )
    csv_bytes_in_memory: int = Field(
        192 << 20,
        ge=1 << 20,
        description="CSV bytes of one symbol decoded in memory; beyond that, in pieces.",
    )
    inflated_bytes_max: int = Field(
        64 << 30, ge=1 << 20, description="A member that says it inflates beyond this is refused."
    )
    inflate_ratio_max: int = Field(
        200, ge=2, description="So is one that inflates by more than this."
    )


class BuildSettings(Section):
    """Derived tables."""

    task_bytes_max: int = Field(
        256 << 20,
        ge=1 << 10,
        description="Compressed bytes a task may read, if it has more than one symbol. Memory is "
        "bounded by the largest symbol, not by this.",
    )
    tasks_per_commit: int = Field(16, ge=1, description="Finished tasks that share one snapshot.")
    task_attempts_max: int = Field(3, ge=1, description="Times a task is tried on other workers.")
    task_deadline_s: float = Field(
        3600.0, gt=0, description="A task that takes longer is given to another worker."
    )


class QualitySettings(Section):
    """What the assessment of quality calls good."""

    threshold: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Days that score less are alerts, and fail `lakehouse quality`.",
    )
    forest: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Isolation forest over bars, where scikit-learn is installed (the extra `ml`); "
        "auto: bars of 15m and longer.",
    )


class AlertSettings(Section):
    """What else than its score makes a day an alert, and who is told."""

    own_loss_rows_max: int = Field(
        0, ge=0, description="Rows of a day that the source has and the lake has lost."
    )
    differing_share_max: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of a day's compared rows that differ from another account of them.",
    )
    anomalies_max: int = Field(100, ge=0, description="Anomalies of a day.")
    webhook_url: SecretStr = Field(
        SecretStr(""),
        description="Where new alerts are sent. http:// or https://; often holds a secret, so never "
        "printed. Empty: nowhere.",
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Signs what is sent (docs/alerts.md): `whsec_` and base64, or any text. "
        "Never printed.",
    )
    webhook_token: SecretStr = Field(
        SecretStr(""), description="Sent as `Authorization: Bearer …`. Never printed."
    )
    webhook_timeout_s: float = Field(10.0, gt=0, le=300, description="Time of one attempt.")
    webhook_attempts_max: int = Field(5, ge=1, le=20, description="Times a run sends a document.")
    webhook_budget_s: float = Field(
        60.0, ge=0, le=240, description="Time it may spend on waiting between attempts."
    )

    @model_validator(mode="after")
    def _can_be_sent_to(self) -> AlertSettings:
        url = self.webhook_url.get_secret_value().strip()
        if url:
            check_url("webhook_url", url)
        object.__setattr__(self, "webhook_url", SecretStr(url))
        for name in ("webhook_secret", "webhook_token"):
            value = getattr(self, name).get_secret_value()
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"{name} must be printable ASCII")
        return self


class TelemetrySettings(Section):
    """Prometheus metrics of commands that end before they could be asked."""

    lake: str = Field(
        "main",
        min_length=1,
        max_length=64,
        description="Label `lake` of every metric, and the name of this lake in alerts.",
    )
    textfile: str = Field(
        "",
        description="A file ending in .prom in the folder of the node exporter's textfile "
        "collector. Empty: none.",
    )
    # It may have a password in it.
    pushgateway_url: str = Field(
        "", repr=False, description="A Prometheus Pushgateway. Empty: none."
    )
    state_every_s: float = Field(
        30.0, gt=0, description="How often the service looks what it says of the lake at /metrics."
    )
    publish_within_s: float = Field(
        0.0,
        ge=0,
        description="Nothing published for longer is an alert. 0: twice the longest pause of "
        "`schedules`, of that which publishes most often; without any, twice the usual pause of the "
        "last week; two hours at least.",
    )
    port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Port of 127.0.0.1 at which a command shows what it counts while it runs. 0: none; "
        "on Ray its exporter does that.",
    )

    @model_validator(mode="after")
    def _can_be_read(self) -> TelemetrySettings:
        if self.textfile and not self.textfile.endswith(".prom"):
            raise ValueError("textfile must end in .prom: the collector reads no other file")
        if self.pushgateway_url:
            check_url("pushgateway_url", self.pushgateway_url)
        return self


class ComputeSettings(Section):
    """Resource profiles: CPUs and GiB of memory of one worker."""

    profile: ProfileName | Literal[""] = Field("", description="Empty: the allocator chooses.")
    actors: int = Field(0, ge=0, description="Workers. 0: the allocator chooses.")
    cpus_max: float = Field(
        0,
        ge=0,
        description="CPUs of all workers of a run together. Fewer than the cluster has leave room for others; more ask its autoscaler for nodes. 0: those that it has.",
    )
    small: tuple[float, float] = (1, 2)
    medium: tuple[float, float] = (2, 4)
    large: tuple[float, float] = (4, 8)
    xlarge: tuple[float, float] = (8, 16)
    ingestion: ProfileName = Field("medium", description="Profile of workers that ingest.")
    processing: ProfileName = Field(
        "large", description="Profile of workers that build and assess."
    )
    analytics: ProfileName = Field("xlarge", description="Profile of workers that assess quality.")
    other: ProfileName = Field("small", description="Profile of all other workers.")
    node_label: str = Field(
        "",
        description="Label of a cluster's nodes that names the profile they are for: workers then start on those alone, else a large node takes many small workers. Empty: on any node.",
    )
    worker_timeout_s: float = Field(
        60,
        gt=0,
        description="How long a run waits for its first worker, or for another when all are lost, on nodes that are there; as long, where the autoscaler says that it has none.",
    )
    node_timeout_s: float = Field(
        900,
        gt=0,
        description="The same where an autoscaler may bring a node: a machine boots, and pulls an image of a gigabyte.",
    )
    elastic: bool = Field(
        True,
        description="On a cluster that others use too, a pool grows and shrinks while it works (docs/autoscaling.md).",
    )
    headroom_cpus: float = Field(
        1,
        ge=0,
        description="CPUs of a cluster that others use too which pools leave free, where that costs no more than a tenth of it.",
    )
    local_bytes_max: int = Field(
        4 << 20,
        ge=0,
        description="Plans of fewer compressed bytes run without Ray, in this process.",
    )
    object_store_mb: int = Field(
        128,
        ge=75,
        description="Shared memory of an own local Ray. Results are small; data goes to the store.",
    )

    def profiles(self) -> dict[str, tuple[float, float]]:
        return {name: getattr(self, name) for name in get_args(ProfileName)}


class ScalingSettings(Section):
    """When there are to be more workers of a pool, or replicas of the service, and when fewer."""

    cpu_up: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Share of CPUs beyond which there are to be more; under half of it, fewer.",
    )
    memory_up: float = Field(0.8, gt=0, le=1, description="Share of memory, likewise.")
    waiting_up: int = Field(
        100, ge=1, description="Units or questions that wait, beyond which there are to be more."
    )
    waiting_down: int = Field(
        10, ge=0, description="There may be fewer only if fewer than these wait."
    )

    @model_validator(mode="after")
    def _check_gap(self) -> ScalingSettings:
        if self.waiting_down > self.waiting_up:
            raise ValueError("waiting_down must not be more than waiting_up")
        return self


class RaySettings(Section):
    address: str = Field(
        "",
        description="A cluster to join: host:port of its GCS, or auto for the one on this machine. Empty: an own local Ray.",
    )
    dashboard_url: str = Field(
        "",
        description="Where `lakehouse jobs` finds the cluster's jobs: the address of its dashboard, such as http://127.0.0.1:8265. Empty: what RAY_API_SERVER_ADDRESS or RAY_ADDRESS say, else that of this machine.",
    )
    silence_s_max: float = Field(
        30,
        gt=0,
        description="How long `lakehouse jobs` goes on waiting for a head that does not answer.",
    )


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="What is told: this and worse."
    )
    format: Literal["text", "json"] = Field(
        "text",
        description="Of stderr: text for people, or one JSON object a line (docs/logs.md), progress and errors too.",
    )
    file: str = Field(
        "",
        description="A file to which events are added as JSON, whatever the format; absolute for jobs. Empty: none.",
    )
