"""Settings that cannot work are refused when they are made, by their name."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from gatelink.config import LOOPBACK, Limits, WireOptions, networks
from gatelink.errors import ConfigError

OFF_BY_0 = {"handler_timeout"}
NUMBERS = [
    name
    for name in Limits.__struct_fields__
    if isinstance(getattr(Limits(), name), (int, float)) and name not in OFF_BY_0
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1])
def test_every_limit_is_above_0(name: str, value: int) -> None:
    setting: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=rf"limits\.{name} is {value}; it must be above 0"):
        Limits(**setting)


@pytest.mark.parametrize("name", OFF_BY_0)
def test_what_0_turns_off_is_never_below_0(name: str) -> None:
    off: dict[str, Any] = {name: 0}
    wrong: dict[str, Any] = {name: -1}
    assert getattr(Limits(**off), name) == 0
    with pytest.raises(ConfigError, match=rf"limits\.{name} is -1; it must be above 0"):
        Limits(**wrong)


@pytest.mark.parametrize("name", [name for name in NUMBERS if isinstance(getattr(Limits(), name), int)])
def test_every_count_is_one_that_an_index_can_be(name: str) -> None:
    setting: dict[str, Any] = {name: 2**62}
    with pytest.raises(ConfigError, match=rf"limits\.{name} is {2**62}; "):
        Limits(**setting)


def test_the_defaults_are_those_of_the_protocol() -> None:
    limits = Limits()
    assert (limits.max_frame, limits.max_frame_unverified) == (102_400, 1_024)
    assert (limits.max_unverified_bytes, limits.max_unverified_frames, limits.max_token) == (2_048, 4, 1_000)
    assert (limits.turn_frames, limits.turn_bytes) == (256, 65_536)
    assert (limits.backlog_window, limits.heartbeat_interval, limits.heartbeat_timeout) == (90, 10, 60)
    assert WireOptions().scramble_key == bytes.fromhex("29fd0138343eb02a")


@pytest.mark.parametrize("timeout", [9.9, 10.0])
def test_the_heartbeat_timeout_is_longer_than_the_interval(timeout: float) -> None:
    with pytest.raises(ConfigError, match=rf"heartbeat_timeout \({timeout} s\) must be longer.*interval \(10.0 s\)"):
        Limits(heartbeat_timeout=timeout)


@pytest.mark.parametrize(("name", "least"), [("window_frames", 64), ("window_bytes", 32_768)])
def test_a_window_holds_what_is_acknowledged_at_once(name: str, least: int) -> None:
    """Below, every window would wait for the acknowledgement that comes after a second."""
    Limits(**{name: least})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"limits\.{name} is {least - 1}; .* after {least} of them.* 1 s"):
        Limits(**{name: least - 1})  # type: ignore[arg-type]


def test_one_frame_of_the_largest_size_is_not_over_the_rate_by_itself() -> None:
    Limits(max_frame=200, byte_burst=100, byte_rate=10, rate_timeout=10)
    with pytest.raises(ConfigError, match=r"limits\.max_frame is 201; .* make 200; give byte_burst"):
        Limits(max_frame=201, byte_burst=100, byte_rate=10, rate_timeout=10)


def test_what_must_not_be_below_another_is_named_with_it() -> None:
    with pytest.raises(ConfigError, match=r"max_unverified_bytes \(1023\) must be at least .*_unverified \(1024\)"):
        Limits(max_unverified_bytes=1_023)
    with pytest.raises(ConfigError, match=r"ban_longest \(1\) must be at least limits.ban_first \(2\): bans grow"):
        Limits(ban_longest=1, ban_first=2)


def test_bursts_hold_what_a_resume_sends_again() -> None:
    """Else a client of ours that comes back would be paused for doing what it has to."""
    limits = Limits()
    assert limits.message_burst >= limits.window_frames and limits.byte_burst >= limits.window_bytes


def test_limits_and_options_never_change() -> None:
    with pytest.raises(AttributeError):
        Limits().max_frame = 1  # type: ignore[misc]
    with pytest.raises(AttributeError):
        WireOptions().scramble = True  # type: ignore[misc]


def test_networks_are_read_or_named() -> None:
    assert networks("10.0.0.0/8", "::1/128") == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert networks() == ()
    for bad in ("10.0.0.0/33", "10.0.0.1/8", "localhost", ""):
        with pytest.raises(ConfigError, match=rf"not a network: '{bad}'.*write it as 10\.0\.0\.0/8"):
            networks("::1/128", bad)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1"])
def test_loopback_is_every_loopback_address(host: str) -> None:
    assert any(ip_address(host) in network for network in networks(*LOOPBACK))


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_scramble_key_has_8_bytes(size: int) -> None:
    with pytest.raises(ConfigError, match=f"scramble_key has {size} bytes; it must have 8"):
        WireOptions(scramble_key=bytes(size))


def test_compress_over_is_not_negative() -> None:
    assert WireOptions(compress_over=0).compress_over == 0
    with pytest.raises(ConfigError, match="compress_over is -1; it must be 0"):
        WireOptions(compress_over=-1)
