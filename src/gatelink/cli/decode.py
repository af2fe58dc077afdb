def decode() -> None:
    """."""
