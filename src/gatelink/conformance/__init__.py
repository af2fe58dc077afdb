"""The conformance kit: it plays the server for an SDK's driver, and checks the promises (docs/conformance.md)."""
