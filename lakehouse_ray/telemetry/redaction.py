"""Texts that others wrote, such as logs of jobs, without what must not be read in them."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"
# Shorter ones would be found in every word; nothing that short protects anything.
_LENGTH_MIN = 4

_PATTERNS = (
    # Keys of the service, of AWS, and tokens (JWT).
    re.compile(r"\blk_[a-z2-7]{10}_[\w-]{8,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    re.compile(r"(?i)(?<=\bbearer )[^\s\"']{8,}"),
    # Whoever a URL names, and what it is signed with.
    re.compile(r"(?<=://)[^/\s@\"']+(?=@)"),
    re.compile(r"(?i)(?<=x-amz-signature=)[0-9a-f]+"),
    # password=…, "secret_access_key": "…"
    re.compile(
        r"(?i)(?:password|passwd|secret|token|access_key|api_key|credential)\w*[\"']?\s*[=:]\s*[\"']?"
        r"(?P<value>[^\s\"',;&]{4,})"
    ),
)


class Redaction:
    """Hides known secrets and what looks like one. Of a line, not of a part of one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= _LENGTH_MIN}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern in _PATTERNS:
            text = pattern.sub(_hide, text)
        return text


def _hide(match: re.Match[str]) -> str:
    value = match.groupdict().get("value")
    return HIDDEN if value is None else match[0].removesuffix(value) + HIDDEN
