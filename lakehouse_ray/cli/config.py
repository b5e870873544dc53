"""`lakehouse config show`: every setting, its value, where it came from and what it means."""

from __future__ import annotations

import json
import re
from pathlib import Path

import typer
from pydantic import BaseModel, SecretStr

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption
from lakehouse_ray.settings import CONFIG_FILE, ENV_PREFIX, flatten, load_settings, origin

_URL_PASSWORD = re.compile(r"(://[^/:@\s]*):[^/@\s]*@")

config = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Settings: command line, then environment, then lakehouse.toml, then default.",
)


@config.callback()
def _config() -> None:
    """Settings: command line, then environment, then lakehouse.toml, then default."""


@config.command()
def show(home: HomeOption = "", json_: JsonOption = False, debug: DebugOption = False) -> int:
    """Show every setting, its value, where it came from and what it means. Secrets are masked.

    Example: lakehouse config show --json
    """
    overrides = {"home": home} if home else {}
    settings = load_settings(overrides)
    described = _descriptions(settings)
    rows = [
        {
            "name": name,
            "value": _value(value),
            "origin": origin(name, overrides),
            "variable": ENV_PREFIX + name.replace(".", "__").upper(),
            "description": described[name],
        }
        for name, value in flatten(settings).items()
    ]
    rows += [
        _derived("storage.root", "storage root in use", settings.storage_root),
        _derived("catalog.uri", "catalog in use", settings.catalog_uri),
    ]
    if json_:
        typer.echo(json.dumps({"v": 1, "file": _file(), "settings": rows}))
        return endings.OK
    typer.echo(f"file: {_file() or f'no {CONFIG_FILE} in this folder'}", err=True)
    width = max(len(str(row["name"])) for row in rows)
    values = max(len(_spelled(row["value"])) for row in rows if len(_spelled(row["value"])) < 50)
    for row in rows:
        value, where = _spelled(row["value"]), str(row["origin"])
        typer.echo(f"{row['name']:<{width}}  {value:<{values}}  {where:<8}  {row['description']}")
    return endings.OK


def _derived(name: str, description: str, value: str) -> dict[str, object]:
    return {
        "name": f"{name} (effective)",
        "value": _value(value),
        "origin": "derived",
        "variable": "",
        "description": description,
    }


def _file() -> str:
    path = Path(CONFIG_FILE)
    return str(path.absolute()) if path.is_file() else ""


def _value(value: object) -> object:
    """In the words of JSON; an unset secret is shown as unset, a set one as stars."""
    if isinstance(value, SecretStr):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return _URL_PASSWORD.sub(r"\1:***@", value)
    return list(value) if isinstance(value, tuple) else value


def _spelled(value: object) -> str:
    if isinstance(value, list):
        return ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return '""' if value == "" else str(value)


def _descriptions(model: BaseModel, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            found |= _descriptions(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = info.description or ""
    return found
