"""`gatelink decode`: show the frames in bytes from the wire (docs/protocol.md)."""

import codecs
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink.cli.loading import load, load_module
from gatelink.config import WireOptions
from gatelink.errors import counted

if TYPE_CHECKING:
    from gatelink.cli.framedump import DecodedFrame
    from gatelink.wire.messages import Catalog

_NOT_HEX = re.compile(r"[^0-9a-fA-F\s]")
_TEXT = re.compile(rb"[\x20-\x7e\s]*")  # input that is meant as hex


def decode(
    hex: Annotated[list[str] | None, typer.Argument(metavar="HEX", help="Frames as hex, one after the other.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read the frames from a file, binary or hex, instead of standard input."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a frame.")] = False,
    imports: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help="A module with @message classes; repeatable.")
    ] = None,
    catalog: Annotated[
        str | None, typer.Option(metavar="MODULE:NAME", help="A Catalog to use instead of the default one.")
    ] = None,
    messages: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A messages.json to use in place of Python classes."),
    ] = None,
    scramble_key: Annotated[
        str, typer.Option(metavar="HEX", help="The base cipher's 8 bytes.")
    ] = WireOptions().scramble_key.hex(),
) -> None:
    """Show the offset, name, id, flags and fields of frames. They include tokens, so be careful with the output.

    Bodies are unscrambled and decompressed. A message that is not registered is shown as the hex of its body. Sealed
    records can't be read. At the first bad byte the command stops, with the offset and the reason on standard error.

    In text that is not UTF-8, each such byte is shown as \\xNN. In the JSON, "body" has the real bytes.

    Exit status: 0 all was shown, 1 it stopped at a bad byte, 78 a module, catalog or messages.json can't be loaded.
    """
    from gatelink.cli.framedump import BadFrame, read_frames
    from gatelink.wire.messages import Catalog
    from gatelink.wire.messages import catalog as default_catalog

    options = WireOptions(scramble_key=_from_hex(scramble_key, "--scramble-key"))
    for module in imports or ():
        load_module(module)
    if messages is not None:
        known = _catalog_of(messages, catalog, imports)
    else:
        known = load(catalog, Catalog) if catalog else default_catalog
    show = _print_json if as_json else _printer()
    try:
        for frame in read_frames(_input(hex, file), known, options):
            show(frame)
    except BadFrame as error:
        sys.stdout.flush()
        print(f"gatelink: offset {error.offset}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _catalog_of(messages: Path, catalog: str | None, imports: list[str] | None) -> "Catalog":
    if catalog or imports:
        raise typer.BadParameter("give --messages, or --import and --catalog, not both", param_hint="--messages")
    from gatelink.schema.file import load_schema
    from gatelink.schema.rebuild import catalog_of

    return catalog_of(load_schema(messages))


def _input(hex: Iterable[str] | None, file: Path | None) -> bytes:
    if hex:
        if file is not None:
            raise typer.BadParameter("give frames as hex or as a file, not both", param_hint="--file")
        return _from_hex(" ".join(hex), "HEX")
    if file is not None:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--file") from None
    else:
        if sys.stdin.isatty():
            raise typer.BadParameter("give frames as hex, or with --file, or on standard input", param_hint="HEX")
        data = sys.stdin.buffer.read()
    text = _without_mark(data)
    # Frames are never text: their fourth byte, the flags, is not printable.
    if _TEXT.fullmatch(text) is None:
        return data
    return _from_hex(text.decode("ascii"), "--file" if file is not None else "standard input")


def _without_mark(data: bytes) -> bytes:
    """The text behind a byte order mark, as editors and shells of Windows write it; other data as it is."""
    if data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace").encode("ascii", "replace") if len(data) % 2 == 0 else data
    return data


def _from_hex(text: str, name: str) -> bytes:
    if (bad := _NOT_HEX.search(text)) is not None:
        raise typer.BadParameter(
            f"not hex: {bad[0]!r} is character {bad.start() + 1}; write bytes as two digits each, of 0 to 9 and a to f",
            param_hint=name,
        )
    if (digits := len("".join(text.split()))) % 2:
        raise typer.BadParameter(f"not hex: {digits} digits, and a byte has two; one is missing", param_hint=name)
    return bytes.fromhex("".join(text.split()))


def _print_json(frame: "DecodedFrame") -> None:
    found = {
        "offset": frame.offset,
        "id": frame.id,
        "name": frame.name,
        "flags": frame.flags,
        "fields": frame.fields,
        "body": frame.body.hex(),
    }
    if frame.tag is not None:
        found["tag"] = frame.tag
    print(json.dumps(found, allow_nan=False))


def _printer() -> "Callable[[DecodedFrame], None]":
    """A function that prints one line for a frame, in colour on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)

    def show(frame: "DecodedFrame") -> None:
        name = f"{frame.name or 'unknown'} ({frame.id})" if frame.id else str(frame.name)
        if frame.fields is not None:
            what = " ".join(f"{key}={value!r}" for key, value in frame.fields.items())
        else:
            what = f"{counted(len(frame.body), 'byte')} {frame.body.hex()}"
        flags = " ".join([f"{frame.flags:02x}", *frame.flag_names])
        if frame.tag is not None:
            flags += f" tag={frame.tag:#x}"
        line = Text.assemble((f"{frame.offset:>8}", "dim"), "  ", (name, "bold"), "  ", (flags, "cyan"), "  ", what)
        line.rstrip()
        console.print(line)

    return show
