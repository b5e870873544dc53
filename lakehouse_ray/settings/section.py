"""What a section of the settings is, and what several of them hold their values to."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    # An error may be printed by whoever catches it; what was typed may be a secret.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def check_url(name: str, url: str) -> None:
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
