"""No password, token or other secret is ever in a log, whatever happens to a login."""

import json
import logging
import secrets
from pathlib import Path
from typing import Any

import pytest

from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.tokens import Identity
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.logger import RateLimitedLogger
from gatelink.login import logins
from gatelink.ops.logs import configure
from tests.e2e.login.support import RawHttp, asking, new_accounts, new_service, post

PASSWORD, GUESS = "Pa55word-of-anna", "Gue55-of-mallory"


class Broken:
    """A login method that fails with the credentials in its hands."""

    async def login(self, credentials: Any, address: str) -> Identity:
        secret = credentials
        raise RuntimeError(f"{len(secret)} credentials")


@pytest.fixture(params=["console", "json"])
def logged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(
        logins, "quiet", RateLimitedLogger(logins.log)
    )  # which has not written a line within this second
    configure("json" if request.param == "json" else "console", "debug")
    return str(request.param)


async def test_no_secret_is_logged(
    logged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    device = secrets.token_hex(16)
    found = [PASSWORD, GUESS, device]
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        async with (
            new_service(engine, accounts, tokens=EngineTokens(engine), admin="127.0.0.1:0") as service,
            asking(service) as http,
        ):
            for path, body in (
                ("/v1/register", {"user": "anna", "password": PASSWORD}),
                ("/v1/register", {"user": "anna", "password": GUESS}),
                ("/v1/register", {"user": GUESS + " ", "password": GUESS}),  # typed into the wrong field
                ("/v1/login", {"user": "anna", "password": PASSWORD}),
                ("/v1/login", {"user": "anna", "password": GUESS}),
                ("/v1/login", {"user": GUESS, "password": PASSWORD}),
                ("/v1/login", {"user": {GUESS: PASSWORD}}),
                ("/v1/guest", {"device_id": device}),
                ("/v1/guest", {"device_id": GUESS}),
                ("/login", {"User": "anna", "Password": PASSWORD}),
                (f"/v1/login?password={PASSWORD}", {}),
            ):
                reply = (await http.post(path, json=body)).json()
                found += [value for value in (reply.get("token"), reply.get("Token")) if value]
            await http.post("/v1/logout", json={"token": found[-1]})
            raw = await RawHttp.open(service)
            await raw.send(post("/v1/login", json.dumps({"password": GUESS}).encode())[:-1] + b"\xff\0" + b"\r\n\r\n")
            await raw.response()
            await raw.close()
            await http.get(f"http://127.0.0.1:{service.admin_port}/metrics")
        methods = {"password": Broken()}
        async with new_service(engine, accounts, methods=methods) as broken, asking(broken) as http:
            assert (await http.post("/v1/login", json={"user": "anna", "password": PASSWORD})).status_code == 500
    captured = capsys.readouterr()
    text = (
        captured.out
        + captured.err
        + "".join(record.getMessage() for record in caplog.records if "httpx" not in record.name)
    )
    assert "logged in" in text and "login refused" in text and "request failed" in text
    assert len(found) >= 7
    for secret in found:
        assert secret not in text


async def test_the_http_server_writes_no_log_of_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        async with new_service(engine, accounts) as service, asking(service) as http:
            await http.get("/v1/servers")
    ours = [record for record in caplog.records if record.name.startswith(("uvicorn", "gatelink", "litestar"))]
    assert not [record for record in ours if "/v1/servers" in record.getMessage()]
    assert "/v1/servers" not in capsys.readouterr().err
