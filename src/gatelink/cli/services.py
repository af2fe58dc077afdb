"""`python -m gatelink.cli.services FILE`: imports what a configuration's services run, for `gatelink config check`.

What is wrong goes to standard error, a line each; the exit status is then 1. It is a process of its own: what a user's
module does when it is imported stays there.
"""

import sys
from pathlib import Path

from gatelink.cli.loading import load_service
from gatelink.errors import ConfigError
from gatelink.settings import load
from gatelink.settings.load import where


def main() -> int:
    file = Path(sys.argv[1])
    settings = load(file, dev=True)  # secrets are checked by who started this
    sys.stdout = sys.stderr  # what modules print
    problems = []
    for name, section in settings.services.items():
        try:
            load_service(section.run, name, settings.services, file)
        except ConfigError as error:
            problems.append(f"{where(file, ('services', name, 'run'))}: {error}")
    print("\n".join(problems), file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
