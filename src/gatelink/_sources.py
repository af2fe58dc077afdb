"""From which sources a compiled core was built. It imports nothing of gatelink: setup.py runs it, too."""

from hashlib import sha256
from pathlib import Path


def digest(package: Path) -> str:
    """The digest of the core's sources in the folder of the package; "" where they are not installed.

    Hidden files are no sources: an editor puts them beside a file that it has open. Raises OSError.
    """
    main = package / "_core.pyx"
    if not main.exists():
        return ""
    found = sha256()
    for file in [main, *sorted((package / "native").glob("[!.]*.pxi"))]:
        content = file.read_bytes()
        found.update(f"{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def is_built_from(core: Path, sources: str) -> bool:
    """Whether a file is a core that was built from the sources with this digest. The build puts the digest into it.

    Raises OSError.
    """
    return sources.encode() in core.read_bytes()
