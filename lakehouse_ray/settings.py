"""Every setting, its default and where its value came from.

Precedence: command line > environment > `lakehouse.toml` > default. Settings are values; they are
read once, in `assembly`, and components are made from them.
"""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lakehouse_ray.errors import InvalidError

ENV_PREFIX = "LAKEHOUSE_"
CONFIG_FILE = "lakehouse.toml"
REAL_ARCHIVE_URL = "https://data.binance.vision"
REAL_LISTING_URL = "https://s3-ap-northeast-1.amazonaws.com/data.binance.vision"

# Addresses that may have a password in them.
MAYBE_SECRET = ("catalog.uri", "telemetry.pushgateway_url")

ProfileName = Literal["small", "medium", "large", "xlarge"]


class _Section(BaseModel):
    # An error may be printed by whoever catches it; what was typed may be a secret.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class BinanceSettings(_Section):
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
    stream_url: str = Field("wss://data-stream.binance.vision", description="Websocket, spot.")

    @model_validator(mode="after")
    def _listing_follows_archive(self) -> BinanceSettings:
        if not self.listing_url:
            real = self.archive_url.rstrip("/") == REAL_ARCHIVE_URL
            object.__setattr__(self, "listing_url", REAL_LISTING_URL if real else self.archive_url)
        for name in type(self).model_fields:
            value = str(getattr(self, name))
            if not value.startswith(("http://", "https://", "ws://", "wss://")):
                raise ValueError(f"{name} must start with http:// or https://, not {value!r}")
            object.__setattr__(self, name, value.rstrip("/"))
        return self


class S3Settings(_Section):
    """How an S3 store is reached. Empty values fall back to the AWS environment and profiles."""

    endpoint_url: str = Field("", description="Empty: AWS itself.")
    region: str = Field("", description="Empty: from the AWS environment.")
    access_key_id: str = Field("", description="Empty: from the AWS environment.")
    secret_access_key: SecretStr = Field(SecretStr(""), description="Never printed.")


class StorageSettings(_Section):
    root: str = Field(
        "", description="A path or s3://bucket/prefix. Empty: `$LAKEHOUSE_HOME/data`."
    )
    s3: S3Settings = S3Settings()


class CatalogSettings(_Section):
    uri: str = Field(
        "",
        description="sqlite:///… or postgresql://…. Empty: `sqlite:///$LAKEHOUSE_HOME/catalog.db`.",
    )


class IngestSettings(_Section):
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


class BuildSettings(_Section):
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


class QualitySettings(_Section):
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


class AlertSettings(_Section):
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
            _check_url("webhook_url", url)
        object.__setattr__(self, "webhook_url", SecretStr(url))
        for name in ("webhook_secret", "webhook_token"):
            value = getattr(self, name).get_secret_value()
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"{name} must be printable ASCII")
        return self


class TelemetrySettings(_Section):
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

    @model_validator(mode="after")
    def _can_be_read(self) -> TelemetrySettings:
        if self.textfile and not self.textfile.endswith(".prom"):
            raise ValueError("textfile must end in .prom: the collector reads no other file")
        if self.pushgateway_url:
            _check_url("pushgateway_url", self.pushgateway_url)
        return self


def _check_url(name: str, url: str) -> None:
    """Refuse what nothing can be sent to. Says nothing of what was typed: it may hold a secret."""
    try:
        parts = urlsplit(url)
        port_fits = parts.port != 0
    except ValueError:
        raise ValueError(f"{name} is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
        raise ValueError(f"{name} must be http://host/… or https://host/…")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError(f"{name} must not hold spaces")


class QuerySettings(_Section):
    """Reading."""

    verify_files: bool = Field(
        False,
        description="Hold the pages of a file against their checksums before a statement first reads "
        "it in a process; DuckDB does not. Reads of one symbol's rows always do.",
    )


class ServeSettings(_Section):
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
        1.0, ge=0.05, description="Between two looks at a table for what was committed."
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


class ComputeSettings(_Section):
    """Resource profiles: CPUs and GiB of memory of one worker."""

    profile: ProfileName | Literal[""] = Field("", description="Empty: the allocator chooses.")
    actors: int = Field(0, ge=0, description="Workers. 0: the allocator chooses.")
    small: tuple[float, float] = (1, 2)
    medium: tuple[float, float] = (2, 4)
    large: tuple[float, float] = (4, 8)
    xlarge: tuple[float, float] = (8, 16)
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


class RaySettings(_Section):
    address: str = Field(
        "",
        description="A cluster to join: host:port of its GCS, or auto for the one on this machine. Empty: an own local Ray.",
    )


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = "warning"
    format: Literal["text", "json"] = "text"


class Settings(BaseSettings):
    """All settings of one process. Frozen."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        toml_file=CONFIG_FILE,
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(Path(".lakehouse"), description="Where a lake on this machine lives.")
    binance: BinanceSettings = BinanceSettings()
    storage: StorageSettings = StorageSettings()
    catalog: CatalogSettings = CatalogSettings()
    ingest: IngestSettings = IngestSettings()
    build: BuildSettings = BuildSettings()
    quality: QualitySettings = QualitySettings()
    alerts: AlertSettings = AlertSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    query: QuerySettings = QuerySettings()
    serve: ServeSettings = ServeSettings()
    compute: ComputeSettings = ComputeSettings()
    ray: RaySettings = RaySettings()
    log: LogSettings = LogSettings()

    @property
    def storage_root(self) -> str:
        return self.storage.root or str(self.home.absolute() / "data")

    @property
    def catalog_uri(self) -> str:
        return self.catalog.uri or f"sqlite:///{self.home.absolute() / 'catalog.db'}"

    @property
    def keys_path(self) -> Path:
        return Path(self.serve.keys_file or self.home / "keys.json").absolute()

    def resolved(self) -> Settings:
        """The same with an absolute home, for processes that work in other folders."""
        return self.model_copy(update={"home": self.home.absolute()})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of this process.

    overrides: Values from the command line, nested like the settings themselves.

    Raises InvalidError where a value or a name is wrong.
    """
    try:
        return Settings(**(overrides or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidError(
            f"setting {where}: {first['msg']}", "`lakehouse config show` lists every setting"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(f"{CONFIG_FILE} is not valid TOML: {error}") from error


def secrets_of(settings: Settings) -> list[str]:
    """Every value that must not be read in a log; of addresses their passwords too."""
    found: list[str] = []
    for name, value in flatten(settings).items():
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
            found.append(value)
        elif name not in MAYBE_SECRET:
            continue
        with contextlib.suppress(ValueError):
            found.append(urlsplit(value).password or "")
    return [secret for secret in found if secret]


def spell_environment(settings: Settings, *, secrets: bool) -> dict[str, str]:
    """The variables by which another process has these settings, of those that are no default.

    settings: With an absolute home. secrets: Give those too that are, or may hold, one.
    """
    told = {f"{ENV_PREFIX}HOME": str(settings.home)}
    defaults = flatten(Settings.model_construct())
    for name, value in flatten(settings).items():
        is_secret = isinstance(value, SecretStr) or (
            name in MAYBE_SECRET and urlsplit(value).password is not None
        )
        if name == "home" or value == defaults[name] or (is_secret and not secrets):
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif name == "storage.root" and "://" not in value:
            value = str(Path(value).absolute())
        elif not isinstance(value, str):
            value = json.dumps(value)
        told[ENV_PREFIX + name.replace(".", "__").upper()] = value
    return told


def flatten(model: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return `{"storage.root": value, …}` for every leaf, secrets masked by their own type."""
    leaves: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def origin(name: str, overrides: Mapping[str, Any] | None = None) -> str:
    """Say where the value of the dotted setting `name` came from."""
    parts = name.split(".")
    if _has(overrides or {}, parts):
        return "command line"
    variable = ENV_PREFIX + "__".join(parts).upper()
    if variable in {key.upper() for key in os.environ}:
        return f"environment {variable}"
    path = Path(CONFIG_FILE)
    if path.is_file() and _has(tomllib.loads(path.read_text()), parts):
        return CONFIG_FILE
    return "default"


def _has(tree: Mapping[str, Any], parts: list[str]) -> bool:
    node: Any = tree
    for part in parts:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True
