"""The soak, for a few seconds: sessions of every kind over breaking connections lose nothing and leave nothing."""

import pytest

from tests.adversity import soak


async def test_sessions_over_breaking_connections_lose_nothing_and_leave_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    problems = await soak.run(seconds=8, robots=12, seed=1, show=False)
    text = capsys.readouterr().out
    assert problems == [], text
    assert "lost 0, doubled 0, reordered 0" in text


@pytest.mark.parametrize(
    ("values", "expected"), [([], 0.0), ([5], 0.0), ([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], -1.0), ([7, 7, 7], 0.0)]
)
def test_a_slope_is_what_least_squares_say(values: list[float], expected: float) -> None:
    assert soak.slope([(float(at), value) for at, value in enumerate(values)]) == pytest.approx(expected)
