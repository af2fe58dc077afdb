"""The messages of a catalog as data: messages.json, and what is made from it (docs/messages.md)."""
