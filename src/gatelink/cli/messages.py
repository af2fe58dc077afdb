"""`gatelink messages`: the messages of a catalog as a file, and what is made from it (docs/messages.md)."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gatelink.errors import CatalogError, ConfigError

messages = typer.Typer(
    name="messages",
    help="Write a catalog's messages as messages.json, compare two of these, and make TypeScript of one.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A messages.json.")]


@messages.command()
def export(
    module: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:CATALOG]",
            help="A module with @message classes; with the name of a Catalog in it, if it is not the default one.",
            show_default=False,
        ),
    ],
    handlers: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:NAME", help="A server or table of handlers, for its rates; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; - for standard output.")] = Path(
        "messages.json"
    ),
) -> None:
    """Write the messages of a catalog: ids, names, fields, bounds, defaults, codecs, answers, rates and docs.

    The same catalog gives the same bytes, so that the file can be kept beside the source, and `gatelink messages check`
    can compare it with an older one.

    Exit status: 0 written, 78 the catalog can't be loaded or exported, or the file can't be written.
    """
    from gatelink.cli.loading import load, load_handlers, load_module
    from gatelink.schema.export import schema_of
    from gatelink.schema.file import schema_json
    from gatelink.wire.messages import Catalog
    from gatelink.wire.messages import catalog as default_catalog

    if ":" in module:
        catalog = load(module, Catalog)
    else:
        others = [f"{module}:{name}" for name, value in vars(load_module(module)).items() if isinstance(value, Catalog)]
        catalog = default_catalog
        if len(catalog.by_id) == len(Catalog().by_id):
            fix = f"name its own, as {others[0]}" if others else "decorate its classes with @message(id)"
            raise ConfigError(f"module {module} registers no message in the default catalog; {fix}")
    rates: dict[int, float] = {}
    for reference in handlers or ():
        table = load_handlers(reference)
        if table.catalog is not catalog:
            raise ConfigError(f"{reference} has another catalog than {module}; export the catalog of its messages")
        for id, rate in table.rates.items():
            rates[id] = min(rate, rates.get(id, rate))
    try:
        schema = schema_of(catalog, rates)
    except CatalogError as error:
        raise ConfigError(str(error)) from None
    _write(schema_json(schema), out)


@messages.command()
def typescript(
    file: File = Path("messages.json"),
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; - for standard output.")] = Path(
        "messages.ts"
    ),
) -> None:
    """Write the messages as TypeScript for the npm package gatelink: an interface and a codec for each.

    Exit status: 0 written, 78 the file can't be read, has what TypeScript can't express, or can't be written.
    """
    from gatelink.schema.file import load_schema
    from gatelink.schema.typescript import typescript as written

    try:
        text = written(load_schema(file))
    except CatalogError as error:
        raise ConfigError(f"{file}: {error}") from None
    _write(text, out)


@messages.command()
def check(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The messages.json of programs that run.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The messages.json of the next version.")],
) -> None:
    """Say which changes break programs with the old messages, or the new ones beside them.

    A line for each: the field, which side sends, and what the other side can't read. Both directions are checked,
    since clients and servers are never all replaced at once.

    Exit status: 0 nothing breaks, 1 something does, 78 a file can't be read.
    """
    from gatelink.schema.compatibility import compare
    from gatelink.schema.file import load_schema

    found = compare(load_schema(old), load_schema(new))
    for each in found.breaks:
        print(each)
    for what, names in (("changed, and both sides read it", found.changed), ("added", found.added)):
        if names:
            print(f"{what}: {', '.join(names)}")
    broken = len({each.id for each in found.breaks})
    counts = {"break": broken, "changed": len(found.changed), "added": len(found.added), "the same": len(found.same)}
    print("messages: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    if broken:
        raise typer.Exit(1)


def _write(text: str, out: Path) -> None:
    if str(out) == "-":
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from None
    print(f"wrote {out}")
