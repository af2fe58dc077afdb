"""A small game, written once, run as one process or as a cluster: see README.md."""
