"""`gatelink keys`: make the keys of servers and clusters, and show their public parts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

if TYPE_CHECKING:
    from gatelink.cluster.engine_keys import LoginKey
    from gatelink.keys import Key

keys = typer.Typer(
    name="keys",
    help="Make the keys of servers and clusters, and show their public parts.",
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
def login(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Files of the cluster key, the newest first.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write them to a new file that only its owner can read.")
    ] = None,
) -> None:
    """Make the keys of a login service from the cluster key.

    They are derived from it, and secret like it. A login service with them checks which gateways are of the cluster,
    and issues tokens. It can't add a server to the cluster, and nobody gets the cluster key from them. While the
    cluster changes its key, give the files of both.

    Exit status: 0 made, 78 a file is no cluster key, is there already, or can't be written.
    """
    from gatelink.keys import load_cluster_key, login_keys_text, save_text

    found = [load_cluster_key(file) for file in files]
    text = login_keys_text(found)
    if out is not None:
        save_text(text, out)
    for key in found:
        _show(key, sys.stdout if out is not None else sys.stderr)
    if out is None:
        print(text, end="")


@keys.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `gatelink keys`.", show_default=False)],
) -> None:
    """Show a key's id, and the public key of a server's key. The secret is never shown.

    A HANDSHAKE names the key by its id. Clients use the public key as connect(..., server_key=...). Login keys have the
    id of their cluster key.

    Exit status: 0 shown, 78 the file can't be read, or holds no key.
    """
    from gatelink.keys import is_of_login, load_key, load_login_keys

    for key in load_login_keys(file) if is_of_login(file) else [load_key(file)]:
        _show(key, sys.stdout)
    if file.stat().st_mode & 0o077:
        print(f"gatelink: others than its owner can read {file}; chmod 600 {file}", file=sys.stderr)


def _show(key: "Key | LoginKey", where: TextIO) -> None:
    """Print the public parts of `key`."""
    from base64 import b64encode

    from gatelink.wire.keys import ServerKey

    print(f"{'key id':<20} {key.key_id.hex()}", file=where)
    if isinstance(key, ServerKey):
        print(f"{'public key (hex)':<20} {key.public.hex()}", file=where)
        print(f"{'public key (base64)':<20} {b64encode(key.public).decode()}", file=where)
