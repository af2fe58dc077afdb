"""The robots of the rig, when there is nothing for them to play with."""

from pathlib import Path

from tests.adversity.cluster.robots import Robots


async def test_robots_stop_in_order_when_no_session_is_left(tmp_path: Path) -> None:
    """A fault that ended all sessions is a result, and not a failure of the rig."""
    robots = Robots()
    await robots.start(logins={}, gateways=[], robots=0, journal=str(tmp_path / "journal"), seed="1")
    await robots.stop()
