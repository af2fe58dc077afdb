"""`python -m gatelink`: the command line."""

from gatelink.cli import main

main()
