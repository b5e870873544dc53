"""`/docs`: the OpenAPI document as one page, without a script and without anything from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

CSP = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --mark: #0a6; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; text-transform: capitalize; }
article { border-top: 1px solid var(--line); padding: .5rem 0 1rem; }
h3 { font: 600 1rem ui-monospace, monospace; margin: .6rem 0 .2rem; }
h3 b { color: var(--mark); margin-right: .6rem; } .dim { color: var(--dim); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { text-align: left; vertical-align: top; padding: .15rem .6rem .15rem 0; border-top: 1px solid var(--line); }
code, pre { font-family: ui-monospace, monospace; font-size: .85rem; }
pre { overflow-x: auto; background: #8881; padding: .6rem; border-radius: .3rem; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; } summary { cursor: pointer; }
"""
_BY_TAG = ("rows", "facts", "symbols", "sql", "jobs", "state")


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document. Everything in it is escaped."""
    operations = list(_operations(document))
    info = document["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>{_text(info['title'])} API</title><style>{_STYLE}</style>",
        f"<h1>{_text(info['title'])} API</h1>",
        f"<p class=dim>version {_text(info['version'])} · <a href='openapi.json'>openapi.json</a></p>",
        *(f"<p>{_prose(paragraph)}</p>" for paragraph in info["description"].split("\n\n")),
        "<nav>",
        *(
            f"<a href='#{_id(path, method)}'>{'' if method == 'GET' else f'{method} '}{_text(path)}</a>"
            for path, method, _ in operations
        ),
        "</nav>",
    ]
    for tag in _BY_TAG:
        parts.append(f"<h2>{tag}</h2>")
        for path, method, operation in operations:
            if tag in operation.get("tags", ()):
                parts += _operation(path, method, operation)
    return "".join(parts)


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<article id='{_id(path, method)}'><h3><b>{method}</b>{_text(path)}</h3>"
    yield f"<div>{_text(operation.get('summary', ''))}</div>"
    if operation.get("description"):
        yield f"<p class=dim>{_prose(operation['description'])}</p>"
    parameters = operation.get("parameters", ())
    if parameters:
        yield "<table><tr><th>parameter<th><th>example"
        for parameter in parameters:
            needed = " <b>needed</b>" if parameter.get("required") else ""
            yield (
                f"<tr><td><code>{_text(parameter['name'])}</code>{needed}"
                f"<td>{_prose(parameter.get('description') or '')}"
                f"<td><code>{_text(_example(parameter))}</code>"
            )
        yield "</table>"
    body = _body_example(operation)
    if body is not None:
        spelled = json.dumps(body, indent=2)
        yield f"<pre>curl '{_text(f'http://127.0.0.1:8080{path}')}' "
        yield f"-H 'Content-Type: application/json' -d '{_text(spelled)}'</pre>"
    if method == "GET":
        asked = {p["name"]: _example(p) for p in parameters if p.get("required")}
        query = f"?{urlencode(asked)}" if asked else ""
        yield f"<pre>curl '{_text(f'http://127.0.0.1:8080{path}{query}')}'</pre>"
    answers = ", ".join(
        f"<code>{_text(status)}</code> {_text(answer['description'])}"
        for status, answer in operation.get("responses", {}).items()
    )
    yield f"<details><summary class=dim>answers</summary>{answers}</details></article>"


def _body_example(operation: Mapping[str, Any]) -> Any:
    """The first example of a body, or None."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = list(content.get("examples", {}).values())
    return examples[0]["value"] if examples else None


def _example(parameter: Mapping[str, Any]) -> str:
    examples = parameter.get("schema", {}).get("examples") or [""]
    return str(examples[0])


def _id(path: str, method: str) -> str:
    return _text(f"{method.lower()}{path.replace('/', '-')}")


def _prose(text: str) -> str:
    """A paragraph, with what stands between backticks as code."""
    parts = [_text(part) for part in text.split("`")]
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))


def _text(value: object) -> str:
    return html.escape(str(value))
