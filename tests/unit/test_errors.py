"""Errors say whose fault it was; every close code has its number, label and explanation."""

import re

import pytest

from gatelink import errors
from gatelink.errors import (
    CloseCode,
    ConnectError,
    GatelinkError,
    LocalError,
    PeerError,
    Refuse,
    RequestCode,
    RequestFailed,
    SessionClosed,
    counted,
    plural,
)

CLOSE_CODES = {
    4000: "normal",
    4001: "verify-failed",
    4002: "verify-timeout",
    4003: "replaced-by-newer-login",
    4004: "heartbeat-timeout",
    4005: "rate-limited",
    4006: "slow-consumer",
    4007: "protocol-error",
    4008: "frame-too-large",
    4009: "kicked",
    4010: "server-full",
    4011: "going-away",
    4012: "resume-refused",
    4013: "internal-error",
    4014: "client-too-old",
    4015: "token-expired",
    4016: "unexplained",
}
EXCEPTIONS = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, GatelinkError)]


@pytest.mark.parametrize("number, text", [(0, "0 frames"), (1, "1 frame"), (2, "2 frames"), (262_144, "262144 frames")])
def test_a_noun_stands_in_the_plural_unless_there_is_one(number: int, text: str) -> None:
    assert counted(number, "frame") == text
    assert plural("bound not kept", number) == ("bound not kept" if number == 1 else "bounds not kept")


def test_close_codes_are_those_of_the_protocol() -> None:
    assert {int(code): code.label for code in CloseCode} == CLOSE_CODES


@pytest.mark.parametrize("code", CloseCode)
def test_every_close_code_is_explained_in_a_sentence(code: CloseCode) -> None:
    assert len(code.explanation.split()) >= 4 and not code.explanation.endswith(".")


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_every_exception_stands_in_the_tree_that_the_module_draws(kind: type[GatelinkError]) -> None:
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__ or "")


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_an_exception_is_the_callers_the_peers_or_of_connect_and_only_one_of_them(kind: type[GatelinkError]) -> None:
    if kind is not GatelinkError:
        assert (
            sum(issubclass(kind, fault) for fault in (LocalError, PeerError, ConnectError, RequestFailed, Refuse)) == 1
        )


@pytest.mark.parametrize("kind", [kind for kind in EXCEPTIONS if issubclass(kind, PeerError)])
def test_every_fault_of_a_peer_has_the_code_that_its_connection_closes_with(kind: type[PeerError]) -> None:
    assert isinstance(kind("seen").code, CloseCode)


def test_a_closed_session_says_why() -> None:
    error = SessionClosed(CloseCode.KICKED, "spam")
    assert (error.code, error.reason, str(error)) == (CloseCode.KICKED, "spam", "session closed: 4009 kicked (spam)")
    assert str(SessionClosed(CloseCode.NORMAL)) == "session closed: 4000 normal"


def test_a_connect_error_has_a_code_where_there_was_one() -> None:
    assert ConnectError("refused", CloseCode.VERIFY_FAILED).code is CloseCode.VERIFY_FAILED
    assert ConnectError("unreachable").code is None


@pytest.mark.parametrize("code", RequestCode)
def test_the_code_of_a_failed_request_prints_as_its_name(code: RequestCode) -> None:
    assert str(code) == f"{code}" == code.label
    assert f"{code:d}" == str(int(code))
