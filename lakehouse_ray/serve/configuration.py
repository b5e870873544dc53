"""The service as a configuration of Ray Serve: what `serve deploy` and a RayService take."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from lakehouse_ray.settings import MAYBE_SECRET, Settings, flatten

APPLICATION = "lakehouse"
IMPORT_PATH = "lakehouse_ray.serve.deploy:application"
# They say where this command runs, and how.
_OF_THE_COMMAND = ("serve.host", "serve.port", "ray.address")


def serve_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration, with what the settings say that is no default and no secret.

    settings: With an absolute home.
    """
    arguments: dict[str, Any] = {"home": str(settings.home)}
    defaults = flatten(Settings.model_construct())
    for name, value in flatten(settings).items():
        if isinstance(value, SecretStr) or name in (*MAYBE_SECRET, *_OF_THE_COMMAND, "home"):
            continue
        if value != defaults[name]:
            section, _, leaf = name.rpartition(".")
            node = arguments
            for part in section.split("."):
                node = node.setdefault(part, {})
            node[leaf] = list(value) if isinstance(value, tuple) else value
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.serve.host, "port": settings.serve.port},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": arguments,
            }
        ],
    }
