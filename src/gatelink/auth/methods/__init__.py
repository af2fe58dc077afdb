"""Ways to log in: each turns credentials into an Identity, or refuses them."""

from gatelink.auth.errors import LoginRefused
from gatelink.auth.methods.base import Custom, Guest, LoginMethod, Password
from gatelink.auth.methods.oidc import Oidc

__all__ = ["Custom", "Guest", "LoginMethod", "LoginRefused", "Oidc", "Password"]
