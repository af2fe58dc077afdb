"""Where each process of a section listens and is reached."""

import pytest

from gatelink.cli.member import advertised_at
from gatelink.errors import ConfigError
from gatelink.settings.sections import GatewaySettings, ServiceSettings


def test_each_process_of_a_section_is_reached_at_a_port_of_its_own() -> None:
    assert advertised_at("tcp://room.example.com:7500", 1, None) == "tcp://room.example.com:7500"
    assert advertised_at("tcp://room.example.com:7500", 3, None) == "tcp://room.example.com:7502"
    assert advertised_at(None, 3, None) == "", "where it listens"
    assert advertised_at("tcp://room.example.com:7500", 3, "tcp://10.0.0.4:7600") == "", "where it was told to listen"


def test_an_address_that_is_none_is_refused_where_it_is_configured() -> None:
    for make in (GatewaySettings, lambda **options: ServiceSettings(type=12, run="game:lobby", **options)):
        make(advertise="tcp://room.example.com:7500")
        with pytest.raises(ConfigError, match="advertise"):
            make(advertise="room.example.com")
