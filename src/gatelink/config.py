"""Every limit and timeout, with its default, and the attack or precedent behind it.

Units are in the field's name or comment: bytes, seconds, frames. A limit is for one server unless it says otherwise.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec

from gatelink.errors import ConfigError, counted

Network = IPv4Network | IPv6Network


def networks(*texts: str) -> tuple[Network, ...]:
    """The networks with the names `texts` (`10.0.0.0/8`, `::1/128`). Raises ConfigError with the bad one."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise ConfigError(f"not a network: {text!r} ({error}); write it as {_nearest(text)}") from None
    return tuple(found)


def _nearest(text: str) -> str:
    """The network of `text` without its host bits, if it is one; else examples."""
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        return "10.0.0.0/8 or ::1/128"


LOOPBACK = ("127.0.0.0/8", "::1/128")

MAX_LENGTH = 0xFFFFFF
"""Bytes of payload that the length field of a frame can hold."""


ACK_FRAMES = 64
ACK_BYTES = 32_768
ACK_SECONDS = 1.0
"""An ACK is sent after this many messages, bytes of body or seconds (docs/protocol.md, "Retention")."""

_AT_LEAST = {
    ("max_unverified_bytes", "max_frame_unverified"): "such a frame could never be whole",
    ("ban_longest", "ban_first"): "bans grow",
}
"""Pairs of settings: the first must be at least the second. And why."""

_AT_MOST = {
    "max_frame": (MAX_LENGTH, "a frame's length has 24 bits"),
    "max_frame_unverified": (MAX_LENGTH, "a frame's length has 24 bits"),
    "backlog": (2**31 - 1, "the kernel has 31 bits for it"),
    "max_slots": (256, "a slot has 8 bits"),
    "write_high_water": (2**31 - 1, "the kernel has 31 bits for it"),
}
_MOST = 2**62 - 1, "no more can be counted"
"""The largest value of whole numbers, and why."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one server. `Limits()` is meant for players on the open internet."""

    # -- frames (docs/protocol.md, "Frames": the original's limit is 102,400) --
    max_frame: int = 102_400  # bytes of payload a verified peer may declare
    max_frame_unverified: int = 1_024  # a token is at most 1,000 bytes
    max_unverified_bytes: int = 2_048  # that a connection may send in all before it is verified
    max_unverified_frames: int = 4
    max_token: int = 1_000  # bytes

    # -- fairness: the most that is handled of one connection in one turn of the loop --
    turn_frames: int = 256
    turn_bytes: int = 65_536

    # -- connections --
    backlog: int = 4_096  # SYNs waiting in the kernel; capped there by net.core.somaxconn
    max_connections: int = 15_000  # below the usual `ulimit -n` of 20,000, so that logs and the admin port can open
    max_per_address: int = 256  # IPv6 by /64; a carrier's NAT holds many players, a flood is thousands
    exempt: tuple[str, ...] = LOOPBACK  # networks without limits per address, and without a user's rates
    connect_rate: float = 20.0  # connections a second of one address
    connect_burst: int = 256  # after a restart all players behind one NAT return at once
    max_addresses: int = 65_536  # with a record of rate and failures; one customer of a provider has as many /64

    # -- unverified connections: thousands of silent ones must not keep other clients out --
    max_unverified: int = 4_096
    max_unverified_per_address: int = 64
    handshake_rate: float = 500.0  # Noise and TLS handshakes a second: a TLS one costs up to 1 ms
    handshake_burst: int = 500

    # -- login (slowloris: the deadline is absolute, whatever bytes arrive) --
    verify_timeout: float = 10.0  # s from accept to verified
    token_timeout: float = 5.0  # s that one `Tokens.verify` may take
    free_failures: int = 5  # of one address, less its successful logins; each further one bans it
    ban_first: float = 1.0  # s; it doubles with every failure
    ban_longest: float = 60.0  # short: other players may share the address
    ban_memory: float = 600.0  # s without a failure that clear an address's failures

    # -- rates of one user (floods; a resume sends up to window_frames and window_bytes again in one burst) --
    message_rate: float = 200.0  # messages and control records a second
    message_burst: int = 2_048
    byte_rate: float = 131_072  # bytes a second, as they come in
    byte_burst: int = 524_288
    rate_timeout: float = 10.0  # s that reading may have been paused since both bursts were last full

    # -- the process --
    max_held_bytes: int = 1_073_741_824  # received and not handled, waiting, queued, and retained, of all together

    # -- sessions --
    max_slots: int = 4  # a user's devices: slots 0 to 3. The wire has room for 256, which would multiply every limit
    heartbeat_interval: float = 10.0  # s, the original's HBTicker
    heartbeat_timeout: float = 60.0  # s of silence, the original's HBTimer
    handler_timeout: float = 300.0  # s that an async handler may run; then it is cancelled. 0: for ever
    max_inbox: int = 256  # frames of one user received and not handled; then reading from its sessions pauses
    max_inbox_bytes: int = 262_144  # of their bodies
    close_timeout: float = 5.0  # s to deliver queued messages when a session is closed
    base_linger: float = 0.1  # s from a base client's last message to the end of its stream; 10 times that after id 24
    max_outbox_bytes: int = 1_048_576  # queued for one peer and not yet handed to its socket
    max_outbox_frames: int = 8_192
    max_outbox_age: float = 30.0  # s during which a peer may take nothing of its queue
    reconnect_within: float = 10.0  # s over which the clients of a stopping server reconnect (GOAWAY)
    write_high_water: int = 65_536  # bytes in the transport's buffer before the outbox holds back

    # -- resume (docs/protocol.md, "Retention is a send window", "Resume") --
    window_frames: int = 1_024  # sent to one peer and not acknowledged
    window_bytes: int = 262_144
    resume_window: float = 120.0  # s that a session may be without a connection
    max_detached: int = 10_000  # sessions; over it one of the user that has most ends
    max_detached_bytes: int = 256 * 1_048_576  # queued and retained for all of them

    # -- the backlog window of base clients (docs/protocol.md, "Newer logins win") --
    backlog_window: float = 90.0  # s
    max_backlogs: int = 10_000  # sessions remembered; over it one of the user that has most is forgotten
    max_backlog_bytes: int = 64 * 1_048_576  # of all of them together

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "handler_timeout" and value == 0:
                continue
            if isinstance(value, (int, float)) and not value > 0:
                raise ConfigError(f"limits.{name} is {value}; it must be above 0")
            largest, why = _AT_MOST.get(name, _MOST)
            if isinstance(value, int) and value > largest:
                raise ConfigError(f"limits.{name} is {value}; {why}: {largest}")
        for name, least in (("window_frames", ACK_FRAMES), ("window_bytes", ACK_BYTES)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"limits.{name} is {getattr(self, name)}; a peer acknowledges after {least} of them, or only "
                    f"after {ACK_SECONDS:g} s, and everything would wait for that; give {least} or more"
                )
        networks(*self.exempt)
        for (larger, smaller), why in _AT_LEAST.items():
            if getattr(self, larger) < getattr(self, smaller):
                raise ConfigError(
                    f"limits.{larger} ({getattr(self, larger)}) must be at least "
                    f"limits.{smaller} ({getattr(self, smaller)}): {why}"
                )
        if self.max_frame > (most := self.byte_burst + self.byte_rate * self.rate_timeout):
            raise ConfigError(
                f"limits.max_frame is {self.max_frame}; a client that sends such a frame is closed as rate-limited: "
                f"{self.byte_burst} bytes at once (byte_burst) and {self.byte_rate:g} a second (byte_rate) for "
                f"{self.rate_timeout:g} s (rate_timeout) make {most:.0f}; give byte_burst the size of such a frame"
            )
        if self.heartbeat_timeout <= self.heartbeat_interval:
            raise ConfigError(
                f"limits.heartbeat_timeout ({self.heartbeat_timeout} s) must be longer than "
                f"limits.heartbeat_interval ({self.heartbeat_interval} s)"
            )


LINK_LIMITS = Limits(
    max_frame=4 * 1_048_576,
    byte_burst=4 * 1_048_576,  # not used: a link has no rates
    turn_frames=1_024,
    turn_bytes=262_144,
    max_connections=1_024,
    ban_longest=1.0,
    rate_timeout=5.0,
    heartbeat_interval=2.0,
    heartbeat_timeout=10.0,
    max_inbox=4_096,
    max_inbox_bytes=8 * 1_048_576,
    max_outbox_frames=262_144,
    max_outbox_bytes=64 * 1_048_576,
    max_outbox_age=10.0,
    write_high_water=262_144,
    window_frames=65_536,
    window_bytes=16 * 1_048_576,
    reconnect_within=0.1,
    resume_window=30.0,
    max_detached=1_024,
    handler_timeout=0.0,  # servers are trusted, and no user is held up
)
"""The limits for links: the other servers of the cluster are few, and each carries thousands of players.

A window holds what thousands of players send in the tenths of a second until an acknowledgement. The timeouts are
short, because a lost server must be noticed sooner than a player in a tunnel.
"""


class WireOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How this side writes its messages. Every receiver reads all forms (docs/protocol.md, "Frames")."""

    compress_over: int = 0  # bytes of body from which it is compressed; 0: never, as in the original
    scramble: bool = False  # obfuscation for the base protocol's old clients, not security
    scramble_key: bytes = bytes.fromhex("29fd0138343eb02a")  # 8 bytes

    def __post_init__(self) -> None:
        if len(self.scramble_key) != 8:
            raise ConfigError(f"wire.scramble_key has {counted(len(self.scramble_key), 'byte')}; it must have 8")
        if self.compress_over < 0:
            raise ConfigError(f"wire.compress_over is {self.compress_over}; it must be 0 (never) or more")
