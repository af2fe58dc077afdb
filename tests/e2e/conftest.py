"""Fixtures for every test here."""

from tests.e2e.engines import nats_server, new_engine, new_nats_engine

__all__ = ["nats_server", "new_engine", "new_nats_engine"]
