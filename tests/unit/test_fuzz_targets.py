"""The fuzz targets work, and no seed breaks them; `make fuzz` looks for inputs that do."""

import importlib
from pathlib import Path

import pytest

from fuzz.harness import MAX_INPUT, SEEDS
from fuzz.make_seeds import seeds

FUZZ = Path(__file__).resolve().parents[2] / "fuzz"
TARGETS = sorted(path.stem for path in FUZZ.glob("fuzz_*.py"))
SEED_FILES = [seed for target in TARGETS for seed in sorted((SEEDS / target).iterdir())]


@pytest.mark.parametrize("seed", SEED_FILES, ids=lambda seed: f"{seed.parent.name}-{seed.name}")
def test_every_seed_holds(seed: Path) -> None:
    importlib.import_module(f"fuzz.{seed.parent.name}").check(seed.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_the_seeds_of_the_script_and_none_is_too_long(target: str) -> None:
    made = seeds()[target]
    assert {path.name for path in (SEEDS / target).iterdir()} == set(made), "run python -m fuzz.make_seeds"
    assert max(map(len, made.values())) <= MAX_INPUT
