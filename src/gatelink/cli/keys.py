"""`gatelink keys`: make the keys of sealed connections, and show their public parts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

if TYPE_CHECKING:
    from gatelink.keys import Key

keys = typer.Typer(
    name="keys",
    help="Make the keys of sealed connections, and show their public parts.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@keys.command()
def new(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Make the key that the servers of a cluster share.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it to a new file that only its owner can read.")
    ] = None,
) -> None:
    """Make a server's key, or with --cluster the key of a cluster.

    The key is a secret. It is written to a new file, or to standard output. The public key, which clients need, is
    shown too: on standard output with --out, on standard error without.

    Exit status: 0 made, 78 the file is there already or can't be written.
    """
    from gatelink.keys import key_text, save_key
    from gatelink.wire.keys import ClusterKey, ServerKey

    key = ClusterKey.generate() if cluster else ServerKey.generate()
    if out is not None:
        save_key(key, out)
        _show(key, sys.stdout)
    else:
        _show(key, sys.stderr)
        print(key_text(key), end="")


@keys.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `gatelink keys new`.", show_default=False)],
) -> None:
    """Show a key's id, and the public key of a server's key. The secret is never shown.

    A HANDSHAKE names the key by its id. Clients use the public key as connect(..., server_key=...).
    """
    from gatelink.keys import load_key

    _show(load_key(file), sys.stdout)
    if file.stat().st_mode & 0o077:
        print(f"gatelink: others than its owner can read {file}; chmod 600 {file}", file=sys.stderr)


def _show(key: "Key", where: TextIO) -> None:
    """Print the public parts of `key`."""
    from base64 import b64encode

    from gatelink.wire.keys import ServerKey

    print(f"{'key id':<20} {key.key_id.hex()}", file=where)
    if isinstance(key, ServerKey):
        print(f"{'public key (hex)':<20} {key.public.hex()}", file=where)
        print(f"{'public key (base64)':<20} {b64encode(key.public).decode()}", file=where)
