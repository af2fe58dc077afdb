"""The configuration file: typed TOML (docs/configuration.md), and the objects made from it."""

from gatelink.settings.build import (
    account_url,
    build_accounts,
    build_engine,
    build_listen,
    build_rules,
    cluster_keys,
    open_tokens,
    problems_with_secrets,
    server_keys,
)
from gatelink.settings.load import SettingsError, load
from gatelink.settings.ports import problems_with_ports
from gatelink.settings.secret import Secret
from gatelink.settings.sections import (
    AccountSettings,
    Argon2Settings,
    ClusterSettings,
    DatabaseUrl,
    EngineSettings,
    GatewaySettings,
    ListenSettings,
    LoginSettings,
    LogSettings,
    OidcSettings,
    ServiceSettings,
    Settings,
    StaticServer,
    TokenSettings,
    shifted,
)

__all__ = [
    "AccountSettings",
    "Argon2Settings",
    "ClusterSettings",
    "DatabaseUrl",
    "EngineSettings",
    "GatewaySettings",
    "ListenSettings",
    "LogSettings",
    "LoginSettings",
    "OidcSettings",
    "Secret",
    "ServiceSettings",
    "Settings",
    "SettingsError",
    "StaticServer",
    "TokenSettings",
    "account_url",
    "build_accounts",
    "build_engine",
    "build_listen",
    "build_rules",
    "cluster_keys",
    "load",
    "open_tokens",
    "problems_with_ports",
    "problems_with_secrets",
    "server_keys",
    "shifted",
]
