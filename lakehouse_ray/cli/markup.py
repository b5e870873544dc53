"""HTML that cannot be broken by what it shows: every text is escaped, and only elements are markup."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

_EMPTY = frozenset({"br", "meta"})
# Signs that turn the order of all that follows around, or that nothing can show.
_HIDDEN = dict.fromkeys(
    (*range(9), *range(11, 32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)), "�"
)


@dataclass(frozen=True)
class Markup:
    """Finished HTML."""

    html: str

    def __str__(self) -> str:
        return self.html


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """Return an element.

    content: Texts, numbers, elements, and iterables of these; None is left out.
    attributes: `class_` and the like lose their underscore at the end, others become hyphens; None
        is left out.
    """
    names = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _EMPTY:
        return Markup(f"<{tag}{names}>")
    return Markup(f"<{tag}{names}>{joined(content)}</{tag}>")


def joined(content: object) -> Markup:
    """Contents beside each other."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str) or not isinstance(content, Iterable):
        return Markup(_escaped(content))
    return Markup("".join(str(joined(part)) for part in content))


def _escaped(value: object) -> str:
    return html.escape(str(value).translate(_HIDDEN))
