"""Who a peer is: tokens, accounts and the login service."""

from gatelink.auth.tokens import Identity, MemoryTokens, StaticTokens, Tokens

__all__ = ["Identity", "MemoryTokens", "StaticTokens", "Tokens"]
