"""Find addresses on which two processes of a configuration, or two listeners of one process, would listen."""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from gatelink.login.limits import host_and_port
from gatelink.net.endpoints import Endpoint, parse_admin, parse_endpoint
from gatelink.ops.page import page_address
from gatelink.settings.lines import Place
from gatelink.settings.load import place_text, where
from gatelink.settings.sections import GatewaySettings, ServiceSettings, Settings, shifted


class Claim(NamedTuple):
    """An address on which one process listens. process: its section, and its number from 1."""

    place: Place
    process: tuple[str, int]
    endpoint: Endpoint


def problems_with_ports(settings: Settings, file: Path, *, on_one_machine: bool) -> list[str]:
    """Errors for addresses that are used twice; a line each, with the file, the line and the fix.

    on_one_machine: whether all processes run here. If not, only the listeners of one process are compared.
    """
    by_port: dict[int, list[Claim]] = {}
    problems: dict[Place, str] = {}  # one for each setting, however many of its processes have it
    for claim in _claims(settings):
        others = by_port.setdefault(claim.endpoint.port, [])
        for other in others:
            if claim.place in problems or not _overlap(claim.endpoint, other.endpoint):
                continue
            if on_one_machine or claim.process == other.process:
                address = claim.endpoint.path or f"port {claim.endpoint.port}"
                problems[claim.place] = (
                    f"{where(file, claim.place)}: process {claim.process[1]} would listen on {address}, "
                    f"as {place_text(other.place)} of process {other.process[1]} does; give each its own "
                    "(the n-th process of a section adds n - 1 to its ports)"
                )
        others.append(claim)
    return list(problems.values())


def _claims(settings: Settings) -> Iterator[Claim]:
    if settings.login is not None:
        host, port = host_and_port(settings.login.listen)
        if port:
            yield Claim(("login", "listen"), ("login", 1), Endpoint("tcp", host, port))
    if settings.page is not None:
        host, port = page_address(settings.page.listen)
        if port:
            yield Claim(("page", "listen"), ("page", 1), Endpoint("tcp", host, port))
    sections: list[tuple[Place, GatewaySettings | ServiceSettings]] = []
    if settings.gateway is not None:
        sections.append((("gateway",), settings.gateway))
    sections += [(("services", name), service) for name, service in settings.services.items()]
    for place, section in sections:
        for index in range(section.count):
            for key, text in _endpoints(section):
                endpoint = parse_endpoint(shifted(text, index))
                if endpoint.port or endpoint.path:
                    yield Claim((*place, *key), (str(place[-1]), index + 1), endpoint)


def _endpoints(section: GatewaySettings | ServiceSettings) -> Iterator[tuple[Place, str]]:
    if isinstance(section, GatewaySettings):
        yield from ((("listen", index), each.endpoint) for index, each in enumerate(section.listen))
    yield ("inner",), section.inner
    if section.admin is not None:
        yield ("admin",), str(parse_admin(section.admin))


def _overlap(one: Endpoint, other: Endpoint) -> bool:
    """Whether two endpoints of the same port can't both be listened on. Names are not looked up."""
    if one.path or other.path:
        return one.path == other.path
    a, b = _host(one), _host(other)
    return a == b or any(every in (a, b) and _version(a) & _version(b) for every in ("0.0.0.0", "::"))


def _host(endpoint: Endpoint) -> str:
    if endpoint.host == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(endpoint.host))
    except ValueError:
        return endpoint.host.lower()


def _version(host: str) -> set[int]:
    """The IP versions that a host may have."""
    try:
        return {ip_address(host).version}
    except ValueError:
        return {4, 6}
