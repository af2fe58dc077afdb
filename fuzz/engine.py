"""The process in which a target is fuzzed: `python -m fuzz.engine TARGET CORPUS... -OPTION...`; see harness.py.

libFuzzer takes this process over and ends it, so it is one of its own. Only gatelink is instrumented: what standard
library and targets do is no news.
"""

import importlib
import sys

import atheris


def main() -> None:
    target, arguments = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=["gatelink"], enable_loader_override=False):
        module = importlib.import_module(f"fuzz.{target}")
    atheris.Setup([target, *arguments], module.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
