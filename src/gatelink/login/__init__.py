"""The login service: it checks credentials over HTTP and gives a token and a gateway's address (docs/login.md)."""
