"""Ways to log in: each turns credentials into an Identity, or refuses them."""

from gatelink.auth.methods.base import LoginMethod, LoginRefused
from gatelink.auth.methods.custom import Custom
from gatelink.auth.methods.local import Guest, Password
from gatelink.auth.methods.oidc import Oidc

__all__ = ["Custom", "Guest", "LoginMethod", "LoginRefused", "Oidc", "Password"]
