"""All sections of a configuration file together."""

import msgspec

from gatelink.cluster.routes import Routes
from gatelink.config import Limits, WireOptions
from gatelink.errors import ConfigError
from gatelink.settings.login import LoginSettings
from gatelink.settings.servers import GatewaySettings, ServiceSettings
from gatelink.settings.shared import (
    AccountSettings,
    ClusterSettings,
    EngineSettings,
    LogSettings,
    Name,
    TokenSettings,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration; `gatelink.settings.load` reads one. docs/configuration.md describes every key.

    `login`, `gateway` and `services` run when their section is there; the others have their defaults.
    """

    engine: EngineSettings = EngineSettings()
    tokens: TokenSettings = TokenSettings()
    accounts: AccountSettings = AccountSettings()
    login: LoginSettings | None = None
    cluster: ClusterSettings = ClusterSettings()
    gateway: GatewaySettings | None = None
    services: dict[Name, ServiceSettings] = {}
    limits: Limits = Limits()
    wire: WireOptions = WireOptions()
    logs: LogSettings = LogSettings()

    def __post_init__(self) -> None:
        if "gateway" in self.services:
            raise ConfigError("services.gateway: gateways have that name; give the service another")
        types: dict[int, str] = {}  # before the ids, which follow from them
        for name, service in self.services.items():
            if service.type in types:
                other = f"services.{types[service.type]}"
                raise ConfigError(f"services.{name}.type: {other} has type {service.type} too; give each its own")
            types[service.type] = name
        owners: dict[int, str] = {}
        gateways = self.gateway
        groups = [("gateway", range(gateways.first_id, gateways.first_id + gateways.count))] if gateways else []
        groups += [(f"services.{name}", service.ids) for name, service in self.services.items()]
        for owner, ids in groups:
            for id in ids:
                if id in owners:
                    raise ConfigError(f"{owner}.first_id: {owners[id]} has the server id {id} too; give each its own")
                owners[id] = owner
        _ = self.routes

    @property
    def routes(self) -> dict[str, int]:
        """`gateway.routes` as server types, for `Routes`. Raises ConfigError for one that cannot be."""
        found = {}
        for text, name in (self.gateway.routes if self.gateway else {}).items():
            if name not in self.services:
                there = ", ".join(self.services) or "none"
                raise ConfigError(f"gateway.routes.{text}: there is no service {name!r}; [services] has {there}")
            found[text] = self.services[name].type
        try:
            Routes(found)
        except ConfigError as error:
            raise ConfigError(f"gateway.routes: {error}") from None
        return found
