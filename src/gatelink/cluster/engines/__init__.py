"""The implementations of `gatelink.cluster.engine.Engine`."""
