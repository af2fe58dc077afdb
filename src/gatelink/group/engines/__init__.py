"""The implementations of `gatelink.group.engine.Engine`."""
