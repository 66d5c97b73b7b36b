"""The API as a page for people, made from the OpenAPI document. No script, nothing from outside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from app.workflows.registry import Registry

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; frame-ancestors 'none'"
"""Content-Security-Policy of the page."""

_STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1c2024,#e6e8eb);--soft:light-dark(#5f6873,#9aa4b0);
--line:light-dark(#dfe3e8,#2d333b);--face:light-dark(#fff,#14171a);
--code:light-dark(#f4f6f8,#1d2126);--link:light-dark(#0b5cad,#6cb0f5)}
body{margin:0 auto;max-width:60rem;padding:1.5rem;font:16px/1.5 system-ui,sans-serif;
color:var(--ink);background:var(--face)}
a{color:var(--link)}h1{font-size:1.6rem}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:2rem 0 .25rem}h3 code{font-size:1rem}.verb{font-weight:700}
pre,code{font:14px/1.45 ui-monospace,monospace}pre{background:var(--code);padding:.75rem;
overflow:auto;border-radius:6px}nav{columns:16rem;font-size:.9rem}nav ul{margin:0;padding-left:1rem}
table{border-collapse:collapse;margin:.75rem 0;font-size:.9rem;display:block;overflow-x:auto}
td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-top:1px solid var(--line)}
.soft{color:var(--soft)}
"""


def page(document: Mapping[str, Any], workflows: Registry) -> str:
    """The whole page.

    Args:
        document: The OpenAPI document.
        workflows: The installed workflows, whose requests the document leaves open.
    """
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {name: [] for name in tags}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag[operation["tags"][0]].append((method.upper(), path, operation))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{escape(document['info']['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>",
        _paragraphs(document["info"]["description"]),
        '<p>For programs: <a href="/openapi.json">openapi.json</a>.</p>',
        _contents(by_tag, workflows),
    ]
    for name, operations in by_tag.items():
        parts.append(f"<h2 id={name}>{name.capitalize()}</h2><p>{escape(tags[name])}</p>")
        parts += [_operation(*one) for one in operations]
    parts.append("<h2 id=requests>Requests of the workflows</h2>")
    parts.append(
        "<p>What goes into <code>request</code> of a job, by its <code>workflow</code>.</p>"
    )
    for workflow in workflows:
        parts.append(f"<h3 id=workflow-{escape(workflow.name)}>{escape(workflow.name)}</h3>")
        parts.append(f"<p>{escape(workflow.description)}</p>")
        parts.append(_fields(workflow.schema()))
    parts.append("<h2 id=schemas>Schemas</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(f"<h3 id=schema-{name}>{name}</h3>")
        parts.append(_paragraphs(schema.get("description", "")))
        parts.append(_fields(schema) if "properties" in schema else "")
    return "\n".join(parts)


def _contents(
    by_tag: Mapping[str, Iterable[tuple[str, str, dict[str, Any]]]], workflows: Registry
) -> str:
    parts = ["<nav>"]
    for name, operations in by_tag.items():
        links = "".join(
            f"<li><a href=#{one['operationId']}>{escape(one['summary'])}</a>"
            for _, _, one in operations
        )
        parts.append(f"<a href=#{name}>{name.capitalize()}</a><ul>{links}</ul>")
    links = "".join(
        f"<li><a href=#workflow-{escape(one.name)}>{escape(one.name)}</a>" for one in workflows
    )
    parts.append(f"<a href=#requests>Requests of the workflows</a><ul>{links}</ul></nav>")
    return "".join(parts)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    open_ = "" if "security" in operation else " <span class=soft>· needs no key</span>"
    return "".join(
        (
            f"<h3 id={operation['operationId']}><code><span class=verb>{method}</span> ",
            f"{escape(path)}</code>{open_}</h3><p>{escape(operation['summary'])}.</p>",
            _paragraphs(operation["description"]),
            _parameters(operation.get("parameters", ())),
            "".join(_bodies(method, path, operation.get("requestBody", {}))),
            _answers(operation["responses"]),
        )
    )


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code><td>{one['in']}<td>{_kind(one['schema'])}"
        f"<td>{escape(one.get('description', ''))}"
        for one in parameters
    )
    return f"<table><tr><th>Parameter<th>In<th>Type<th>{rows}</table>" if rows else ""


def _bodies(method: str, path: str, body: Mapping[str, Any]) -> Iterator[str]:
    for media_type, content in body.get("content", {}).items():
        yield f"<p>Body: <code>{escape(media_type)}</code>, {_kind(content['schema'])}</p>"
        for example in content.get("examples", {}).values():
            text = json.dumps(example["value"], indent=2)
            yield (
                f'<pre>curl -X {method} "$GATEWAY{escape(path)}" \\\n'
                '  -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\\n'
                f"  -d '{escape(text)}'</pre>"
            )
    if "multipart/form-data" in body.get("content", {}) and path == "/v1/jobs":
        yield (
            '<pre>curl "$GATEWAY/v1/jobs" -H "Authorization: Bearer $KEY" \\\n'
            '  -F \'job={"request": {"prompt": "a person dancing"}}\' \\\n'
            "  -F reference_image=@me.jpg -F driving_video=@dance.mp4</pre>"
        )


def _answers(responses: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for status, answer in sorted(responses.items()):
        content = answer.get("content", {})
        problem = content.get("application/problem+json", {})
        codes = ", ".join(
            f'<a href="/problems/{code}"><code>{code}</code></a>'
            for code in problem.get("examples", {})
        )
        shown = codes or ", ".join(
            f"<code>{escape(kind)}</code> {_kind(one.get('schema', {}))}"
            for kind, one in content.items()
        )
        rows.append(f"<tr><td>{status}<td>{escape(answer.get('description', ''))}<td>{shown}")
    return f"<table><tr><th>Status<th>Meaning<th>{''.join(rows)}</table>"


def _fields(schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = []
    for name, one in schema["properties"].items():
        need = "required" if name in required else ""
        if not need and one.get("default") is not None:
            need = f"default <code>{escape(json.dumps(one['default'], ensure_ascii=False))}</code>"
        text = escape(one.get("description", ""))
        rows.append(f"<tr><td><code>{escape(name)}</code><td>{_kind(one)}<td>{need}<td>{text}")
    return f"<table><tr><th>Field<th>Type<th><th>{''.join(rows)}</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href=#schema-{name}>{name}</a>"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            kinds = [_kind(one) for one in schema[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(one))}</code>" for one in schema["enum"])
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_kind(schema['items'])}"
    words = [str(schema.get("title") if schema.get("type") == "object" else schema.get("type", ""))]
    bounds = (("minimum", "from"), ("maximum", "to"), ("multipleOf", "multiple of"))
    words += [f"{word} {schema[key]:g}" for key, word in bounds if key in schema]
    if "maxLength" in schema:
        words.append(f"of at most {schema['maxLength']:,} characters")
    return escape(" ".join(word for word in words if word != "None"))


def _paragraphs(text: str) -> str:
    """Plain text with `code` in it."""
    shown = []
    for paragraph in filter(None, (one.strip() for one in text.split("\n\n"))):
        pieces = paragraph.split("`")
        shown.append(
            "".join(
                f"<code>{escape(piece)}</code>" if number % 2 else escape(piece)
                for number, piece in enumerate(pieces)
            )
        )
    return "".join(f"<p>{one}</p>" for one in shown)
