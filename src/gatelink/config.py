"""Every limit and timeout, named, with its default and the attack or precedent that set it.

Units are in the field's name or comment: bytes, seconds, frames. All of them are per server unless they say otherwise.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec

from gatelink.errors import ConfigError

Network = IPv4Network | IPv6Network


def networks(*texts: str) -> tuple[Network, ...]:
    """The networks that `texts` name (`10.0.0.0/8`, `::1/128`). Raises ConfigError naming the bad one."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise ConfigError(f"not a network: {text!r} ({error}); write it as 10.0.0.0/8 or ::1/128") from None
    return tuple(found)


LOOPBACK = ("127.0.0.0/8", "::1/128")

MAX_LENGTH = 0xFFFFFF
"""Bytes of payload that the length of a frame can say."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one server allows. `Limits()` is meant for players on the open internet."""

    # -- frames (protocol.md, "Frames": the original's limit is 102,400) --
    max_frame: int = 102_400  # bytes of payload a verified peer may declare
    max_frame_unverified: int = 1_024  # a token is at most 1,000 bytes
    max_unverified_bytes: int = 2_048  # all that a connection may send before it is verified
    max_unverified_frames: int = 4
    max_token: int = 1_000  # bytes

    # -- fairness: what one connection may have handled in one turn of the loop --
    turn_frames: int = 256
    turn_bytes: int = 65_536

    # -- connections --
    backlog: int = 4_096  # SYNs waiting in the kernel; capped there by net.core.somaxconn
    max_connections: int = 15_000  # below the usual `ulimit -n` of 20,000, so that logs and admin still open
    max_per_address: int = 256  # IPv6 by /64; a carrier's NAT holds many players, a flood is thousands
    exempt: tuple[str, ...] = LOOPBACK  # networks that per-address limits do not hold for

    # -- login (slowloris: the deadline is absolute, whatever trickles in) --
    verify_timeout: float = 10.0  # s from accept to verified
    token_timeout: float = 5.0  # s that one `Tokens.verify` may take

    # -- sessions --
    heartbeat_interval: float = 10.0  # s, the original's HBTicker
    heartbeat_timeout: float = 60.0  # s of silence, the original's HBTimer
    max_inbox: int = 256  # frames received and not handled; then reading from that peer pauses
    max_inbox_bytes: int = 262_144  # of their bodies
    close_timeout: float = 5.0  # s to deliver what is queued when a session is closed
    max_outbox_bytes: int = 1_048_576  # queued for one peer and not yet handed to its socket
    max_outbox_frames: int = 8_192
    write_high_water: int = 65_536  # bytes in the transport's buffer before the outbox holds back

    # -- resume (docs/protocol.md, "Retention is a send window", "Resume") --
    window_frames: int = 1_024  # sent to one peer and not acknowledged
    window_bytes: int = 262_144
    resume_window: float = 120.0  # s that a session may be without a connection
    max_detached: int = 10_000  # sessions; over it the one that broke first ends
    max_detached_bytes: int = 256 * 1_048_576  # queued and kept for all of them

    # -- the backlog window of base clients (protocol.md, "Newer logins win") --
    backlog_window: float = 90.0  # s
    max_backlogs: int = 10_000  # sessions remembered; over it the oldest is forgotten
    max_backlog_bytes: int = 64 * 1_048_576  # of all of them together

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not value > 0:
                raise ConfigError(f"limits.{name} is {value}; it must be above 0")
        for name in ("max_frame", "max_frame_unverified"):
            if getattr(self, name) > MAX_LENGTH:
                raise ConfigError(f"limits.{name} is {getattr(self, name)}; a frame's length has 24 bits: {MAX_LENGTH}")
        networks(*self.exempt)
        if self.heartbeat_timeout <= self.heartbeat_interval:
            raise ConfigError(
                f"limits.heartbeat_timeout ({self.heartbeat_timeout} s) must be longer than "
                f"limits.heartbeat_interval ({self.heartbeat_interval} s)"
            )


class WireOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How this side writes its messages. Every receiver reads all of them (protocol.md, "Frames")."""

    compress_over: int = 0  # bytes of body from which it is compressed; 0: never, as the original
    scramble: bool = False  # obfuscation for the base protocol's old clients, not security
    scramble_key: bytes = bytes.fromhex("29fd0138343eb02a")  # 8 bytes

    def __post_init__(self) -> None:
        if len(self.scramble_key) != 8:
            raise ConfigError(f"wire.scramble_key has {len(self.scramble_key)} bytes; it must have 8")
        if self.compress_over < 0:
            raise ConfigError(f"wire.compress_over is {self.compress_over}; it must be 0 (never) or more")
