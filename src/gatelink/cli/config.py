"""`gatelink config`: check a configuration file, and show all its settings."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from gatelink.settings import GatewaySettings, Settings

config = typer.Typer(
    name="config",
    help="Check a configuration file, and show all its settings.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file, as cluster.toml.", show_default=False)]
Dev = Annotated[bool, typer.Option("--dev", help="For development: secrets may be missing.")]


@config.command()
def check(file: File, dev: Dev = False) -> None:
    """Check a configuration, its ports, secrets, certificates and services, without starting anything.

    The modules of the services are imported from the current directory, as in `gatelink up`.

    Each error is one line, with the file, the line and the fix. Wrong keys and values are shown first, all together;
    without any, the errors of secrets, certificates and services. If the login signs its tokens, their public keys
    are shown too.

    Exit status: 0 it is good, 1 it is not, 78 the file can't be read.
    """
    from gatelink.ops.logs import configure
    from gatelink.settings import SettingsError, load, problems_with_ports, problems_with_secrets
    from gatelink.settings.build import signing_keys
    from gatelink.settings.show import toml

    configure()
    try:
        settings = load(file, dev=dev)
    except SettingsError as error:
        problems = error.problems
    else:
        problems = [
            *problems_with_ports(settings, file, on_one_machine=not settings.engine.servers),
            *problems_with_secrets(settings, file),
            *problems_with_services(settings, file),
        ]
        if not problems:
            print(f"{file}: OK: {summary(settings)}")
            if settings.gateway is not None and not settings.gateway.outer and listens_everywhere(settings.gateway):
                print(
                    "note: gateway.listen is every address of a machine, which clients can't be told; a gateway "
                    "starts only with gateway.outer, --outer or GATELINK_OUTER"
                )
            if settings.tokens.kind == "signed" and settings.login is not None:
                publics = [key.public_key().public_bytes_raw().hex() for key in signing_keys(settings.tokens)]
                print(f"for processes that only check tokens: public_keys = {toml(publics)}")
            return
    print("\n".join(problems), file=sys.stderr)
    raise typer.Exit(1)


@config.command()
def show(file: File) -> None:
    """Show a configuration with all defaults, as TOML. For a secret, only its place is shown.

    Exit status: 0 shown, 78 the file can't be read or has errors.
    """
    from gatelink.settings import load
    from gatelink.settings.show import show as shown

    print(shown(load(file)), end="")


def problems_with_services(settings: "Settings", file: Path) -> list[str]:
    """The problems of the objects that `run` names. `import_services` imports their modules in another process."""
    if not settings.services:
        return []
    code = "from gatelink.cli.config import import_services; import_services()"
    child = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(child, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, errors="surrogateescape")
    if done.returncode == 0:
        return []
    return done.stderr.splitlines() or [f"{file}: the services can't be imported: exit status {done.returncode}"]


def import_services() -> NoReturn:
    """Import the services of the configuration in argv[1]. The process writes its problems to stderr, a line each.

    A process of its own, because a user's module may do anything when it is imported. Exit status 1: problems.
    """
    from gatelink.cli.loading import load_service
    from gatelink.errors import ConfigError
    from gatelink.settings import load
    from gatelink.settings.load import where

    file = Path(sys.argv[1])
    settings = load(file, dev=True)  # `check` has checked the secrets
    sys.stdout = sys.stderr  # modules may print
    problems = []
    for name, section in settings.services.items():
        try:
            load_service(section.run, name, settings.services, file)
        except ConfigError as error:
            problems.append(f"{where(file, ('services', name, 'run'))}: {error}")
    print("\n".join(problems), file=sys.stderr)
    sys.exit(int(bool(problems)))


def listens_everywhere(gateway: "GatewaySettings") -> bool:
    """Whether an endpoint for clients is 0.0.0.0 or [::]."""
    from gatelink.net.endpoints import is_everywhere, parse_endpoint

    return any(is_everywhere(parse_endpoint(each.endpoint).host) for each in gateway.listen)


def summary(settings: "Settings") -> str:
    """The parts of a configuration, in one line."""
    parts = [f"cluster {settings.cluster.name}", f"engine {settings.engine.url}", f"tokens {settings.tokens.kind}"]
    if settings.login is not None:
        parts.append(f"login {settings.login.listen} ({', '.join(settings.login.methods)})")
    if settings.gateway is not None:
        listen = ", ".join(each.endpoint for each in settings.gateway.listen)
        parts.append(f"gateway x{settings.gateway.count} {listen}")
    if settings.page is not None:
        parts.append(f"page {settings.page.folder} at {settings.page.listen}")
    parts += [f"{name} x{each.count} (type {each.type})" for name, each in settings.services.items()]
    return "; ".join(parts)
