"""The bodies of the login service: what a log or a traceback shows of them."""

import msgspec
import pytest

from gatelink.login import messages
from gatelink.login.messages import LoginReply

SECRET = "hunter2-hunter2-hunter2"
BODIES = [
    body
    for body in vars(messages).values()
    if isinstance(body, type)
    and issubclass(body, msgspec.Struct)
    and {"password", "token", "device_id", "id_token"} & {name.lower() for name in body.__struct_fields__}
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_a_body_with_a_secret_shows_it_in_no_log(body: type[msgspec.Struct]) -> None:
    assert len(BODIES) == 8
    shown = repr(body(**dict.fromkeys(body.__struct_fields__, SECRET)))
    assert shown.startswith(f"{body.__name__}(")
    for name in body.__struct_fields__:
        is_secret = name.lower() in ("password", "token", "device_id", "id_token")
        assert (f"{name}=<{len(SECRET)} characters>" if is_secret else f"{name}='{SECRET}'") in shown


def test_a_reply_shows_the_rest() -> None:
    reply = LoginReply(7, SECRET, 1.0, {"tcp": "tcp://127.0.0.1:1"}, "")
    shown = "uid=7, token=<23 characters>, expires_at=1.0, addresses={'tcp': 'tcp://127.0.0.1:1'}, public_key=''"
    assert repr(reply) == f"LoginReply({shown})"
