"""The login service: HTTP in, a token and a gateway's address out (docs/login.md)."""
