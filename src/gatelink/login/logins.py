"""The steps of a login: count the try, check the credentials, choose a gateway, issue a token."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from gatelink.auth.accounts import AccountExists, Accounts
from gatelink.auth.errors import InvalidCredential, Unavailable
from gatelink.auth.methods import LoginMethod, LoginRefused
from gatelink.auth.tokens import Identity, Issuer, checked
from gatelink.calls import invoke
from gatelink.cluster.engine import EngineError
from gatelink.errors import ConfigError
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.login.database_check import DatabaseCheck
from gatelink.login.gateways import Gateways, NoGateway
from gatelink.login.messages import LoginReply
from gatelink.login.throttle import Throttle, TooMany

log = Logger("gatelink.login.http")
quiet = RateLimitedLogger(log)

METHODS = ("password", "guest", "oidc")


class Logins:
    """Logs players in and out, and makes accounts.

    methods: by the names in METHODS. accounts: for `register`; None: registering is off. lifetime: of a token, in
    seconds. one_token: a newer login ends the tokens of the same user and slot. database: refuses logins while the
    cluster has another one.

    `api.problem_of` lists the errors that the methods raise. `outcomes` counts logins and registrations by (method,
    outcome), `delays` the tries that must wait, by rule.
    """

    def __init__(
        self,
        *,
        methods: Mapping[str, LoginMethod],
        accounts: Accounts | None,
        tokens: Issuer,
        gateways: Gateways,
        throttle: Throttle,
        lifetime: float,
        one_token: bool = True,
        clock: Callable[[], float] = time.time,
        database: DatabaseCheck | None = None,
    ) -> None:
        if unknown := set(methods) - set(METHODS):
            raise ConfigError(f"unknown login methods {', '.join(sorted(unknown))}; use {', '.join(METHODS)}")
        self.methods = methods
        self.accounts = accounts
        self.gateways = gateways
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.delays: Counter[str] = Counter()
        self._tokens = tokens
        self._throttle = throttle
        self._lifetime = lifetime
        self._one_token = one_token
        self._clock = clock
        self._database = database

    def succeeded(self) -> int:
        """The logins and registrations that succeeded since the start."""
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome == "succeeded")

    async def password(self, credentials: Mapping[str, Any], address: str, transport: str = "") -> LoginReply:
        """credentials: with `user` and `password`. transport: that the gateway must have, as `tcp`."""
        with self._counting("password", address):
            identity = await self._check_password(credentials, address)
            return await self._welcome(identity, "password", address, credentials.get("slot", 0), transport)

    async def _check_password(self, credentials: Mapping[str, Any], address: str) -> Identity:
        user = credentials["user"]
        if not user:  # as for users of a third party: there is no account whose password could be guessed
            await self._throttle.visit(address)
            return await self._login("password", credentials, address)
        attempt = await self._throttle.login(user, address)
        try:
            identity = await self._login("password", credentials, address)
        except LoginRefused:
            await attempt.failed()
            raise
        except BaseException:  # unavailable, timeout or bug: the password was not found wrong
            await attempt.undecided()
            raise
        await attempt.succeeded()
        return identity

    async def guest(self, device_id: str, address: str, slot: int = 0) -> LoginReply:
        with self._counting("guest", address):
            attempt = await self._throttle.guest(device_id, address)
            identity = await self._login("guest", {"device_id": device_id}, address)
            await attempt.remember()
            return await self._welcome(identity, "guest", address, slot)

    async def oidc(self, credentials: Mapping[str, Any], address: str, slot: int = 0) -> LoginReply:
        with self._counting("oidc", address):
            await self._throttle.visit(address)
            identity = await self._login("oidc", credentials, address)
            return await self._welcome(identity, "oidc", address, slot)

    async def register(self, user: str, password: str, address: str, slot: int = 0) -> LoginReply:
        """Make an account, and log in to it."""
        with self._counting("register", address):
            identity = await self._make_account(user, password, address)
            return await self._welcome(identity, "register", address, slot)

    async def create(self, user: str, password: str, address: str) -> tuple[int, bool]:
        """Make an account: (uid, True). If the account exists and the password is right, returns (uid, False)."""
        try:
            with self._counting("register", address):
                identity = await self._make_account(user, password, address)
        except AccountExists:
            with self._counting("password", address):
                identity = await self._check_password({"user": user, "password": password}, address)
            return identity.uid, False
        return identity.uid, True

    async def _make_account(self, user: str, password: str, address: str) -> Identity:
        assert self.accounts is not None
        await self._throttle.register(address)
        identity = await self.accounts.create(user, password)
        await self._throttle.registered(user, address)
        return identity

    async def logout(self, token: str) -> None:
        """End a token. An unknown token is no error, so that the answer does not show which are valid."""
        await invoke(self._tokens.revoke, token)

    async def _login(self, method: str, credentials: Mapping[str, Any], address: str) -> Identity:
        found = await invoke(self.methods[method].login, credentials, address)
        return checked(found, f"the login method {method}")

    async def _welcome(
        self, identity: Identity, method: str, address: str, slot: int, transport: str = ""
    ) -> LoginReply:
        gateway = self.gateways.choose(identity.uid, transport)
        expires_at = self._clock() + self._lifetime
        issue = partial(self._tokens.issue, only=self._one_token, slot=slot)
        token = await invoke(issue, identity.uid, identity.claims)
        log.info("logged in", uid=identity.uid, method=method, address=address, gateway=gateway.id)
        return LoginReply(identity.uid, token, expires_at, gateway.by_transport, gateway.public_key)

    @contextmanager
    def _counting(self, method: str, address: str) -> Iterator[None]:
        """Count and log the outcome; at most a line a second for outcomes that clients can cause."""
        outcome = "failed"
        try:
            if self._database is not None:
                self._database.refuse_other()
            yield
            outcome = "succeeded"
        except TooMany as error:
            outcome = "delayed"
            self.delays[error.limit] += 1
            quiet.info("login delayed", method=method, address=address, limit=error.limit, seconds=error.retry_after)
            raise
        except (LoginRefused, AccountExists, InvalidCredential) as error:
            outcome = "refused"
            reason = (
                error.reason if isinstance(error, LoginRefused) else type(error).__name__
            )  # other texts name the user
            quiet.info("login refused", method=method, address=address, reason=reason)
            raise
        except (Unavailable, EngineError, NoGateway) as error:
            outcome = "unavailable"
            quiet.error("login unavailable", method=method, error=f"{type(error).__name__}: {error}")
            raise
        finally:
            self.outcomes[method, outcome] += 1
