"""A small game, written once, run as one process or as a group: see README.md."""
