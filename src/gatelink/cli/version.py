"""`gatelink version`: print versions, for a bug report."""


def version() -> None:
    """Print the versions of gatelink, Python and the main libraries, and which core runs."""
    import platform
    from importlib.metadata import version as version_of

    from gatelink._native import description
    from gatelink.version import __version__

    found = {
        "gatelink": __version__,
        "core": description(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "uvloop": version_of("uvloop"),
        "msgspec": version_of("msgspec"),
        "platform": platform.platform(),
    }
    for name, value in found.items():
        print(f"{name:<9} {value}")
