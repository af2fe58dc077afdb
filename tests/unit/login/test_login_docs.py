"""docs/login.md says what is: every limit with its default, every metric, every problem."""

import re
from pathlib import Path

import msgspec
import pytest

from gatelink.login.limits import LoginLimits, Rule

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "login.md").read_text()
FILES = [*(ROOT / "src" / "gatelink" / "login").glob("*.py"), ROOT / "src" / "gatelink" / "ops" / "families.py"]
CLIENT = (ROOT / "clients" / "typescript" / "src" / "login.ts").read_text()
SOURCE = "\n".join(path.read_text() for path in FILES)


def shown(value: object) -> str:
    """A default as the table writes it."""
    match value:
        case Rule():
            return f"{value.free} free, one more each {value.recovery:g} s"
        case tuple():
            return ", ".join(map(str, value))
        case int():
            return f"{value:,}"
    return f"{value:g}"


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(LoginLimits)])
def test_every_limit_is_documented_with_its_default(field: str) -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith(f"| `{field}` |")]
    assert len(rows) == 1
    assert rows[0][1] == shown(getattr(LoginLimits(), field)) and len(rows[0]) == 4


def test_every_metric_is_documented() -> None:
    used = set(re.findall(r'"(gatelink_\w+)"', SOURCE))
    used |= {f"gatelink_{name}" for name in re.findall(r'(?:gauge|counter)s?\("(\w+)"', SOURCE)}
    documented = set(re.findall(r"^\| `(gatelink_\w+)` \|", PAGE, re.MULTILINE))
    assert used and {name.removesuffix("_total") for name in documented} == used


def row_codes(row: str) -> list[str]:
    return re.findall(r"`([a-z-]+)`", row)


def test_every_problem_is_documented_and_has_its_type_in_the_typescript_sdk() -> None:
    used = set(re.findall(r'(?:problem\(\s*\d+|_later\(|problem\(\s*error\.status_code),\s*"([a-z-]+)"', SOURCE))
    used |= set(re.findall(r'_later\("([a-z-]+)"', SOURCE))
    rows = re.findall(r"^\| [\d, ]+ \| (`[^|]*) \|", PAGE, re.MULTILINE)
    documented = {code for row in rows for code in row_codes(row)}
    assert "wrong-credentials" in used and used - {"refused"} == documented
    (codes,) = re.findall(r"export type LoginCode =([^;]*);", CLIENT)
    assert re.findall(r'"([a-z-]+)"', codes) == list(dict.fromkeys(code for row in rows for code in row_codes(row)))
