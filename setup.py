"""How the compiled core is built (docs/native.md), and the readme of the package. All else is in pyproject.toml.

GATELINK_NATIVE, while building: `0` builds no core; `1` fails where it can't be built; otherwise the package is then
installed without it, and runs as pure Python.

GATELINK_REPOSITORY, while building: the URL below which the project's files are, as
https://git.example.com/gatelink/blob/main. A package index shows the readme without the files, so its links lead there.
Without it they stay as they are: the project has no public address of its own.
"""

import os
import re
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

WANTED = os.environ.get("GATELINK_NATIVE", "")
PACKAGE = Path("src/gatelink")
SOURCES = runpy.run_path(str(PACKAGE / "_sources.py"))
DIGEST = SOURCES["digest"](PACKAGE)
"""Of the core's sources. It is put into the core, and gatelink compares both where the sources are."""


def is_outdated() -> bool:
    """Whether a core must be built although its file, or Cython's, may be newer than the sources, as after a copy."""
    cores = [*PACKAGE.glob("_core.*.so"), *Path("build").glob("lib*/gatelink/_core.*.so")]
    return not cores or not all(SOURCES["is_built_from"](core, DIGEST) for core in cores)


def extensions() -> list[Extension]:
    """The compiled core, unless it isn't wanted, or can't be had here."""
    if WANTED == "0":
        return []
    if not sys.platform.startswith("linux") or sys.implementation.name != "cpython":
        return []
    parts = [f"src/gatelink/native/{name}" for name in sorted(os.listdir("src/gatelink/native"))]
    flags = os.environ.get("GATELINK_CFLAGS", "-O3 -g0").split()
    return [
        Extension(
            "gatelink._core",
            ["src/gatelink/_core.pyx"],
            depends=[name for name in parts if name.endswith(".pxi")],
            define_macros=[("GATELINK_SOURCES", f'"{DIGEST}"')],
            extra_compile_args=flags,
            extra_link_args=[flag for flag in flags if flag.startswith("-fsanitize")],
            optional=WANTED != "1",
        )
    ]


def readme(repository: str) -> str:
    """README.md. If there is a URL, its links to files begin with it; a picture is a raw file."""

    def whole(link: re.Match[str]) -> str:
        base = "/raw/".join(repository.rsplit("/blob/", 1)) if link[1] else repository
        return f"{link[0]}{base.rstrip('/')}/"

    with open("README.md", encoding="utf-8") as file:
        text = file.read()
    return re.sub(r"(!?)\[[^\]]*\]\((?!#|[a-z]+:)", whole, text) if repository else text


setup(
    ext_modules=extensions(),
    options={"build_ext": {"force": is_outdated()}},
    long_description=readme(os.environ.get("GATELINK_REPOSITORY", "")),
    long_description_content_type="text/markdown",
)
