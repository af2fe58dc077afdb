"""The identity of a peer: tokens, accounts and login methods."""

from gatelink.auth.tokens import Identity, MemoryTokens, StaticTokens, Tokens

__all__ = ["Identity", "MemoryTokens", "StaticTokens", "Tokens"]
