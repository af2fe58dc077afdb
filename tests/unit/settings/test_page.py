"""`[page]`: with --dev, and only then, its origins are taken where it has to log in and connect."""

from pathlib import Path

import pytest

from gatelink.settings import SettingsError, load, problems_with_ports

CLUSTER = """
[login]
origins = ["https://play.example.com"]

[gateway]
listen = ["tcp://127.0.0.1:7000", "ws://127.0.0.1:7100"]

[page]
folder = "web"
listen = "http://127.0.0.1:{port}"
"""
ORIGINS = ("http://127.0.0.1:8001", "http://localhost:8001")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "cluster.toml"
    file.write_text(CLUSTER.format(port=8001))
    return file


def test_with_dev_the_login_and_websockets_also_take_the_page(file: Path) -> None:
    settings = load(file, dev=True)
    assert settings.page is not None and settings.page.folder == file.parent / "web"
    assert settings.login is not None and settings.gateway is not None
    assert settings.login.origins == ("https://play.example.com", *ORIGINS)
    assert [each.origins for each in settings.gateway.listen] == [(), ORIGINS]


def test_without_dev_they_do_not(file: Path) -> None:
    settings = load(file)
    assert settings.login is not None and settings.gateway is not None
    assert settings.login.origins == ("https://play.example.com",)
    assert [each.origins for each in settings.gateway.listen] == [(), ()]


def test_a_port_that_the_page_shares_is_named(file: Path) -> None:
    file.write_text(CLUSTER.format(port=7100))
    (problem,) = problems_with_ports(load(file), file, on_one_machine=True)
    assert "gateway.listen[1]" in problem and "7100" in problem and "page.listen" in problem


def test_a_page_for_other_machines_is_an_error_of_its_line(file: Path) -> None:
    file.write_text(file.read_text().replace("127.0.0.1:8001", "0.0.0.0:8001"))
    with pytest.raises(SettingsError, match=r"cluster\.toml:10: page: listen: .*not loopback"):
        load(file)
