"""Endpoints as text, and connections counted by the key of their address."""

from ipaddress import IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.config import LOOPBACK
from gatelink.errors import ConfigError
from gatelink.net.endpoints import AddressTable, Endpoint, address_key, parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tcp://0.0.0.0:7000", Endpoint("tcp", "0.0.0.0", 7000)),
        ("tcp://game.example.com:0", Endpoint("tcp", "game.example.com", 0)),
        ("tls://service_1:65535", Endpoint("tls", "service_1", 65535)),
        ("tcp://[::1]:7000", Endpoint("tcp", "::1", 7000)),
        ("tls://[fe80::1%eth0]:7000", Endpoint("tls", "fe80::1%eth0", 7000)),
        ("unix:///run/x.sock", Endpoint("unix", path="/run/x.sock")),
        ("unix:///run/my gate:1.sock", Endpoint("unix", path="/run/my gate:1.sock")),
    ],
)
def test_an_endpoint_is_read_and_written_back(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text


def test_an_address_is_written_in_its_usual_form() -> None:
    assert str(parse_endpoint("tcp://[2001:DB8:0:0::1]:07000")) == "tcp://[2001:db8::1]:7000"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write it as tcp://host:port"),
        ("localhost:7000", "write it as tcp://host:port"),
        ("http://localhost:7000", "write it as tcp://host:port"),
        ("tcp://localhost", "write it as tcp://host:port"),
        ("tcp://:7000", "write it as tcp://host:port"),
        ("tcp://::1:7000", r"tcp://\[::1\]:7000"),
        ("tcp://localhost:7000/", "write it as tcp://host:port"),
        ("tcp://user@localhost:7000", "write it as tcp://host:port"),
        ("tcp://localhost:7000\n", "write it as tcp://host:port"),
        ("tcp://localhost:65536", "port 65536 is over 65535"),
        ("tcp://localhost:-1", "write it as tcp://host:port"),
        ("tcp://999.0.0.1:7000", "999"),
        ("tcp://1.2.3:7000", "4 octets"),
        ("tcp://[localhost]:7000", "not an IP address"),
        ("tcp://[127.0.0.1]:7000", "not an IP address"),
        ("unix://run/x.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("unix:///run/", "three slashes"),
        ("unix:///run/x\0y", "unprintable"),
        ("unix:///" + "x" * 107, "108 bytes, a Unix socket's at most 107"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_endpoint(text)
    assert repr(text) in str(caught.value)


@given(
    st.text()
    | st.builds(
        "{}://{}:{}".format,
        st.sampled_from(["tcp", "tls", "unix", "TCP"]),
        st.text(max_size=20) | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map("[{}]".format),
        st.integers(-1, 70_000) | st.text(max_size=5),
    )
    | st.text().map("unix:///{}".format)
)
def test_any_text_is_an_endpoint_that_survives_writing_or_a_config_error(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ConfigError:
        return
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", "unix"),
        ("/run/x.sock", "unix"),
        ("unix", "unix"),
    ],
)
def test_the_key_of_an_address(host: str, key: str) -> None:
    assert address_key(host) == key


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_all_of_an_ipv6_64_has_one_key_and_it_names_that_64(high: int, low: int, other_low: int) -> None:
    address, neighbour = IPv6Address(high << 64 | low), IPv6Address(high << 64 | other_low)
    key = address_key(str(address))
    assert address_key(str(neighbour)) == key
    assert ip_network(key) == IPv6Network((high << 64, 64))


@given(st.text())
def test_any_text_has_a_key(host: str) -> None:
    assert address_key(host)


def test_a_key_holds_as_many_connections_as_the_limit() -> None:
    table = AddressTable(2)
    assert [table.enter("192.0.2.1") for _ in range(4)] == [True, True, False, False]
    assert table.enter("192.0.2.2")
    table.leave("192.0.2.1")
    assert [table.enter("192.0.2.1") for _ in range(2)] == [True, False]


def test_addresses_of_one_key_share_its_limit() -> None:
    table = AddressTable(1)
    assert table.enter("2001:db8::1")
    assert not table.enter("2001:db8::ffff:1")
    assert table.enter("2001:db8:0:1::1")
    assert table.enter("192.0.2.1")
    assert not table.enter("::ffff:192.0.2.1")
    assert table.enter("")
    assert not table.enter("/run/x.sock")


def test_a_key_without_connections_is_forgotten() -> None:
    table = AddressTable(2)
    hosts = ["192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1", "2001:db8::2", ""]
    for host in hosts:
        table.enter(host)
    assert len(table) == 4
    for host in hosts:
        table.leave(host)
    assert len(table) == 0


def test_a_refused_connection_does_not_count() -> None:
    table = AddressTable(1)
    table.enter("192.0.2.1")
    table.enter("192.0.2.1")
    table.leave("192.0.2.1")
    assert len(table) == 0


def test_leaving_without_having_entered_is_an_error() -> None:
    with pytest.raises(KeyError):
        AddressTable(1).leave("192.0.2.1")


@pytest.mark.parametrize(
    ("exempt", "host"),
    [
        (LOOPBACK, "127.0.0.1"),
        (LOOPBACK, "127.255.0.1"),
        (LOOPBACK, "::ffff:127.0.0.1"),
        (LOOPBACK, "::1"),
        (LOOPBACK, ""),
        (("10.0.0.0/8", "2001:db8::/32"), "10.1.2.3"),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db8:9::1"),
    ],
)
def test_exempt_addresses_are_neither_limited_nor_counted(exempt: tuple[str, ...], host: str) -> None:
    table = AddressTable(1, exempt)
    assert all(table.enter(host) for _ in range(5))
    assert len(table) == 0
    for _ in range(5):
        table.leave(host)


def test_the_neighbours_of_an_exempt_address_are_limited() -> None:
    table = AddressTable(1, LOOPBACK)
    assert table.enter("::2")
    assert not table.enter("::2")


def test_addresses_dropped_from_the_cache_still_leave_under_their_key() -> None:
    table = AddressTable(1)
    hosts = [f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(20_000)]
    assert all(table.enter(host) for host in hosts)
    assert len(table) == len(hosts)
    for host in hosts:
        table.leave(host)
    assert len(table) == 0
