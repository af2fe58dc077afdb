"""The OpenAPI document as a page for people: no scripts, and nothing from other servers."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

import msgspec

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The page's Content-Security-Policy."""

_STYLE = """
:root { color-scheme: light dark; --soft: #5c6675; --box: #8881; --line: #8884; --link: #1668c7; }
@media (prefers-color-scheme: dark) { :root { --soft: #98a2b0; --link: #6cb0ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
h1 { margin-bottom: .25rem; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h2, h3 { overflow-wrap: anywhere; } .soft, th { color: var(--soft); font-weight: normal; }
code, pre, .path { font-family: ui-monospace, monospace; } code { overflow-wrap: anywhere; }
pre { background: var(--box); padding: .75rem; font-size: .9rem; line-height: 1.4; white-space: pre-wrap;
  overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
nav ul { list-style: none; padding: 0; columns: 20rem; } nav li { break-inside: avoid; padding: .1rem 0; }
.method { text-transform: uppercase; font-size: .85em; padding: .1em .5em; border: 1px solid #8888; }
@media (max-width: 30rem) { body { margin-top: .5rem; } table { font-size: .9rem; } }
"""
_METHODS = ("get", "post", "put", "patch", "delete")
_CURRENT = "/v1/"  # the paths that come first; those of clients of another engine come last
_ANSWERS = 2  # operations with the same answer from which it is explained once, for all


class _Operation(NamedTuple):
    """One method of a path. fields: of it in the document."""

    path: str
    method: str
    fields: Mapping[str, Any]

    @property
    def id(self) -> str:
        return escape(self.fields["operationId"])

    @property
    def name(self) -> str:
        return f'<span class="method">{self.method}</span> <span class="path">{escape(self.path)}</span>'


def page(document: Mapping[str, Any], source: str) -> str:
    """A whole HTML page. document: OpenAPI 3.1; source: the path of its JSON."""
    info, schemas = document["info"], document["components"]["schemas"]
    title = escape(f"{info['title']} {info['version']}")
    operations = list(_operations(document["paths"]))
    shared = _shared(operations)
    return "".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>',
            f"<h1>{title}</h1><p>{_text(info.get('description', ''))} ",
            f'For programs: <a href="{escape(source)}">{escape(source)}</a>, ',
            f"OpenAPI {escape(document['openapi'])}.</p>",
            *_contents(operations, bool(shared)),
            "<p>The commands take the address of this service from a variable:</p>",
            "<pre>LOGIN=https://login.example.com</pre>",
            *(part for each in operations for part in _operation(each, shared, schemas)),
            *_errors(shared),
            '<h2 id="bodies">Bodies</h2>',
            *_schemas(schemas),
            "</body></html>",
        ]
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[_Operation]:
    """All of them: those of the current API first, then what is for machines, then those of another engine."""
    for path in sorted(paths, key=_rank):
        for method in _METHODS:
            if method in paths[path]:
                yield _Operation(path, method, paths[path][method])


def _rank(path: str) -> tuple[int, str]:
    return (0 if path.startswith(_CURRENT) else 1 if path == "/healthz" else 2), path


def _contents(operations: list[_Operation], has_errors: bool) -> Iterator[str]:
    yield "<nav><ul>"
    for each in operations:
        yield f'<li><a href="#{each.id}">{each.name}</a> <span class="soft">{_text(each.fields["summary"])}</span></li>'
    if has_errors:
        yield '<li><a href="#errors">Errors of several paths</a></li>'
    yield '<li><a href="#bodies">Bodies</a></li></ul></nav>'


# -- answers --


def _shared(operations: list[_Operation]) -> dict[str, tuple[str, str]]:
    """Refusals that several operations have, each as (body, meaning) by its status."""
    counts = Counter((status, *_answer(of)) for each in operations for status, of in _refusals(each).items())
    found: dict[str, tuple[str, str]] = {}
    for (status, body, meaning), count in counts.most_common():
        if count >= _ANSWERS:
            found.setdefault(status, (body, meaning))
    return dict(sorted(found.items()))


def _refusals(operation: _Operation) -> dict[str, Any]:
    return {status: of for status, of in operation.fields["responses"].items() if not status.startswith("2")}


def _answer(response: Mapping[str, Any]) -> tuple[str, str]:
    """(body, meaning) as HTML."""
    return _body(response), _text(response.get("description", ""))


def _operation(
    operation: _Operation, shared: Mapping[str, tuple[str, str]], schemas: Mapping[str, Any]
) -> Iterator[str]:
    fields = operation.fields
    yield f'<h2 id="{operation.id}">{operation.name}</h2><p>{_text(fields["summary"])}.'
    yield f" {_text(fields.get('description', ''))}</p>"
    if "requestBody" in fields:
        yield f"<p>Body: {_body(fields['requestBody'])}</p>"
    yield f"<pre>{escape(_curl(operation, schemas))}</pre>"
    own, common = [], []
    for status, response in sorted(fields["responses"].items()):
        body, meaning = _answer(response)
        if status.startswith("2"):
            yield f"<p>Answer {escape(status)}: {body}</p>"
            if example := _example_of(response, schemas):
                yield f"<pre>{escape(example)}</pre>"
        elif shared.get(status) == (body, meaning):
            common.append(escape(status))
        else:
            own.append(f"<tr><td>{escape(status)}<td>{body}<td>{meaning}")
    if own:
        yield f"<table><tr><th>status<th>body<th>meaning{''.join(own)}</table>"
    if common:
        yield f'<p class="soft">And <a href="#errors">errors of several paths</a>: {", ".join(common)}.</p>'


def _errors(shared: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    if shared:
        yield '<h2 id="errors">Errors of several paths</h2><table><tr><th>status<th>body<th>meaning'
        for status, (body, meaning) in shared.items():
            yield f"<tr><td>{escape(status)}<td>{body}<td>{meaning}"
        yield "</table>"


def _body(holder: Mapping[str, Any]) -> str:
    """The types of a request's or a response's body."""
    content = holder.get("content", {})
    return ", ".join(_type(media.get("schema", {})) for media in content.values()) or "none"


# -- examples --


def _curl(operation: _Operation, schemas: Mapping[str, Any]) -> str:
    """A command that asks for the operation, with an example body."""
    parts = [f'curl "$LOGIN"{shlex.quote(operation.path)}']
    body = next(iter(operation.fields.get("requestBody", {}).get("content", {}).items()), None)
    if operation.method != ("post" if body is not None else "get"):
        parts.append(f"-X {operation.method.upper()}")
    if body is not None:
        media, of = body
        example = msgspec.json.encode(_example(of.get("schema", {}), schemas, is_whole=False)).decode()
        parts += [f"-H {shlex.quote(f'content-type: {media}')}", f"-d {shlex.quote(example)}"]
    return " \\\n    ".join(parts)


def _example_of(response: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """The body of an answer, as JSON or text; "" if it has none."""
    for media, of in response.get("content", {}).items():
        example = _example(of.get("schema", {}), schemas, is_whole=True)
        if isinstance(example, str) and media == "text/plain":
            return example
        return msgspec.json.format(msgspec.json.encode(example), indent=2).decode()
    return ""


def _example(schema: Mapping[str, Any], schemas: Mapping[str, Any], *, is_whole: bool, depth: int = 8) -> Any:
    """A value of a schema: its own example, or a plain one. is_whole: with the fields that may be left out."""
    if schema.get("examples"):
        return schema["examples"][0]
    if "default" in schema:
        return schema["default"]
    if "$ref" in schema:
        schema = schemas.get(schema["$ref"].rpartition("/")[2], {})
    if depth == 0:
        return None

    def inner(of: Mapping[str, Any]) -> Any:
        return _example(of, schemas, is_whole=is_whole, depth=depth - 1)

    for several in ("oneOf", "anyOf"):
        if schema.get(several):
            return inner(schema[several][0])
    if "properties" in schema:
        required = schema.get("required", ())
        wanted = {name: of for name, of in schema["properties"].items() if is_whole or name in required}
        return {name: inner(of) for name, of in wanted.items()}
    match schema.get("type"):
        case "object" if isinstance(schema.get("additionalProperties"), Mapping):
            return {"name": inner(schema["additionalProperties"])}
        case "array":
            return [inner(schema.get("items", {}))]
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return True
        case "string":
            return "ok"
    return None


# -- bodies --


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
