"""The configuration file: typed TOML (docs/configuration.md), and what is made of it."""

from gatelink.settings.build import (
    IssuedTokens,
    account_url,
    build_accounts,
    build_engine,
    build_listen,
    build_rules,
    cluster_keys,
    open_tokens,
    server_keys,
)
from gatelink.settings.load import SettingsError, load
from gatelink.settings.login import LoginSettings, OidcSettings, StaticServer
from gatelink.settings.secret import Secret
from gatelink.settings.servers import GatewaySettings, ListenSettings, ServiceSettings, shifted
from gatelink.settings.settings import Settings
from gatelink.settings.shared import (
    AccountSettings,
    Argon2Settings,
    ClusterSettings,
    EngineSettings,
    LogSettings,
    TokenSettings,
)

__all__ = [
    "AccountSettings",
    "Argon2Settings",
    "EngineSettings",
    "GatewaySettings",
    "ClusterSettings",
    "IssuedTokens",
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
    "server_keys",
    "shifted",
]
