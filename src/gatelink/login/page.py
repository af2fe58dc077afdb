"""The OpenAPI document as a page for people: no scripts, and nothing from other servers."""

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import msgspec

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The page's Content-Security-Policy."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; }
code, .path { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; }
.method { text-transform: uppercase; font-size: .85em; padding: .1em .5em; border: 1px solid #8888; }
"""
_METHODS = ("get", "post", "put", "patch", "delete")


def page(document: Mapping[str, Any], source: str) -> str:
    """A whole HTML page. document: OpenAPI 3.1; source: the path of its JSON."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    return "".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
            f"<h1>{title}</h1><p>{_text(info.get('description', ''))} ",
            f'For programs: <a href="{escape(source)}">{escape(source)}</a>, ',
            f"OpenAPI {escape(document['openapi'])}.</p>",
            *_operations(document["paths"]),
            "<h2>Bodies</h2>",
            *_schemas(document["components"]["schemas"]),
            "</body></html>",
        ]
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[str]:
    for path, item in sorted(paths.items()):
        for method in _METHODS:
            if method in item:
                yield from _operation(path, method, item[method])


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(operation["operationId"])}"><span class="method">{method}</span> '
    yield f'<span class="path">{escape(path)}</span></h2><p>{_text(operation["summary"])}.'
    yield f" {_text(operation.get('description', ''))}</p>"
    if "requestBody" in operation:
        yield f"<p>Body: {_body(operation['requestBody'])}</p>"
    yield "<table><tr><th>status<th>body<th>meaning"
    for status, response in sorted(operation["responses"].items()):
        meaning = "" if status.startswith("2") else _text(response.get("description", ""))
        yield f"<tr><td>{escape(status)}<td>{_body(response)}<td>{meaning}"
    yield "</table>"


def _body(holder: Mapping[str, Any]) -> str:
    """The types of a request's or a response's body."""
    content = holder.get("content", {})
    return ", ".join(_type(media.get("schema", {})) for media in content.values()) or "none"


def _schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        yield f'<h3 id="schema-{escape(name)}">{escape(name)}</h3><table><tr><th>field<th>type<th>'
        required = schema.get("required", ())
        for field, kind in schema.get("properties", {}).items():
            notes = [] if field in required else ["may be left out"]
            notes += [_text(kind["description"])] if "description" in kind else []
            notes += [f"for example <code>{_json(example)}</code>" for example in kind.get("examples", ())]
            yield f"<tr><td><code>{escape(field)}</code><td>{_type(kind)}<td>{'; '.join(notes)}"
        yield "</table>"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return " or ".join(map(_type, schema[several]))
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if "additionalProperties" in schema:
            return f"object of {_type(schema['additionalProperties'])}"
        case "string" if "maxLength" in schema:
            return f"string of {schema.get('minLength', 0)} to {schema['maxLength']}"
        case str(kind):
            return escape(kind)
    return "any"


def _json(value: Any) -> str:
    return escape(msgspec.json.encode(value).decode())


def _text(text: str) -> str:
    """Prose as HTML; of Markdown it knows only `code`."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
