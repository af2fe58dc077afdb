"""Routes: every message id has one type of server, or nobody's."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatelink.cluster.routes import Routes
from gatelink.errors import ConfigError
from gatelink.wire.base import FRAMEWORK_IDS


@given(st.integers(0, 65_535))
@example(0)
@example(10_999)
@example(11_000)
@example(59_999)
@example(60_000)
@example(65_535)
def test_without_routes_an_applications_message_goes_by_its_thousands_and_no_other_goes_anywhere(id: int) -> None:
    assert Routes().table[id] == (id // 1000 if 11_000 <= id <= 59_999 else 0)


@given(st.integers(11_000, 59_999), st.integers(0, 2_000), st.integers(0, 255))
@example(11_000, 0, 0)
@example(59_000, 999, 255)
def test_a_range_moves_its_ids_and_no_others(first: int, more: int, type: int) -> None:
    last = min(first + more, 59_999)
    table = Routes({f"{first}-{last}": type}).table
    assert set(table[first : last + 1]) == {type}
    assert table[first - 1] == ((first - 1) // 1000 if first > 11_000 else 0)
    assert table[last + 1] == ((last + 1) // 1000 if last < 59_999 else 0)


def test_a_single_id_and_one_of_the_original_engines_may_have_a_route() -> None:
    table = Routes({"12007": 30, "700": 31}).table
    assert (table[12006], table[12007], table[12008], table[700]) == (12, 30, 12, 31)


@pytest.mark.parametrize("ids", ["4", "24", "20-30", "90-100", "199", "60000", "59999-60000", "12010-12000", "0"])
def test_ids_that_no_application_has_are_refused(ids: str) -> None:
    with pytest.raises(ConfigError, match="ids are 5 to 59999"):
        Routes({ids: 12})


@pytest.mark.parametrize("text", ["", "lobby", "12000-", "12000 to 12005", "-5"])
def test_what_is_no_range_is_refused_with_how_it_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as 12000 or 12000-12099"):
        Routes({text: 12})


def test_the_lowest_and_the_highest_id_that_may_have_a_route() -> None:
    table = Routes({"5": 1, "59999": 2}).table
    assert (table[4], table[5], table[6], table[59_998], table[59_999]) == (0, 1, 0, 59, 2)


def test_two_routes_for_one_id_are_refused_with_both_named() -> None:
    with pytest.raises(ConfigError, match=r"'12000-12010' and '12005' both have id 12005"):
        Routes({"12000-12010": 12, "12005": 13})


@pytest.mark.parametrize("type", [-1, 256])
def test_a_type_that_cannot_be_is_refused(type: int) -> None:
    with pytest.raises(ConfigError, match="server types are 1 to 255"):
        Routes({"12000": type})


def test_no_route_leads_a_frameworks_message_anywhere() -> None:
    table = Routes({"5-23": 40, "25-99": 40, "200-10999": 41}).table
    assert not any(table[id] for id in FRAMEWORK_IDS)
