"""Every setting, its default and where its value came from.

Precedence: command line > environment > `lakehouse.toml` > default. Settings are values; they are
read once, in `assembly`, and components are made from them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.settings.hot import HotSettings
from lakehouse_ray.settings.lake import (
    AlertSettings,
    BinanceSettings,
    BuildSettings,
    CatalogSettings,
    ComputeSettings,
    IngestSettings,
    LogSettings,
    QualitySettings,
    RaySettings,
    ScalingSettings,
    StorageSettings,
    TelemetrySettings,
)
from lakehouse_ray.settings.maintain import MaintainSettings
from lakehouse_ray.settings.reading import QuerySettings, ServeSettings
from lakehouse_ray.settings.schedules import SchedulerSettings, ScheduleSettings
from lakehouse_ray.settings.streams import StreamSettings
from lakehouse_ray.settings.update import UpdateSettings

ENV_PREFIX = "LAKEHOUSE_"
CONFIG_FILE = "lakehouse.toml"

# Addresses that may have a password in them.
MAYBE_SECRET = ("catalog.uri", "telemetry.pushgateway_url")


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
    update: UpdateSettings = UpdateSettings()
    stream: StreamSettings = StreamSettings()
    hot: HotSettings = HotSettings()
    build: BuildSettings = BuildSettings()
    quality: QualitySettings = QualitySettings()
    alerts: AlertSettings = AlertSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    maintain: MaintainSettings = MaintainSettings()
    query: QuerySettings = QuerySettings()
    serve: ServeSettings = ServeSettings()
    compute: ComputeSettings = ComputeSettings()
    scaling: ScalingSettings = ScalingSettings()
    ray: RaySettings = RaySettings()
    schedules: tuple[ScheduleSettings, ...] = Field(
        (), description="What runs by itself (docs/schedules.md)."
    )
    scheduler: SchedulerSettings = SchedulerSettings()
    log: LogSettings = LogSettings()

    @property
    def storage_root(self) -> str:
        return self.storage.root or str(self.home.absolute() / "data")

    @property
    def catalog_uri(self) -> str:
        return self.catalog.uri or f"sqlite:///{self.home.absolute() / 'catalog.db'}"

    @property
    def spool_folder(self) -> Path:
        return Path(self.stream.spool_folder or self.home / "spool").absolute()

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
    except SettingsError as error:
        # Lists and tables are JSON in a variable. Which one it is the library does not say.
        field = re.search(r'field "([^"]+)"', str(error))
        begins = f"{ENV_PREFIX}{field[1] if field else ''}".upper()
        found = sorted(name for name in os.environ if name.upper().startswith(begins))
        raise InvalidError(
            f"no JSON, which a list or table has to be, in one of the variables {', '.join(found)}",
            "`lakehouse config show` lists every setting",
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
    """Return `{"storage.root": value, …}` for every leaf, secrets masked by their own type.

    A list of sections is one leaf: what each says that is no default.
    """
    leaves: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            leaves |= flatten(value, f"{prefix}{name}.")
        elif name == "schedules":
            leaves[name] = [one.model_dump(mode="json", exclude_defaults=True) for one in value]
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
