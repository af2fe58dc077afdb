"""The certificate of a tls:// listener: loaded at the start, and again when its files change."""

import os
import ssl
from datetime import UTC, datetime

from cryptography import x509

from gatelink.errors import ConfigError
from gatelink.logger import Logger

log = Logger("gatelink.listener")

INTERVAL = 0.5
"""Seconds between two looks at the files."""

State = tuple[tuple[int, int, int] | None, ...]
"""Of each file its inode, size and time of change; None if it is not there."""


class Certificate:
    """A certificate with its key. `context` is for the TLS handshakes that begin now.

    endpoint: the listener's, for errors and the log. certificate, key: PEM files; without `key` it is in the first.
    Raises ConfigError for what does not load.
    """

    def __init__(self, endpoint: str, certificate: str, key: str | None = None) -> None:
        self._endpoint = endpoint
        self._certificate = certificate
        self._key = key
        self._loaded = self._state()
        self._failed: State | None = None
        self.context = self._load()

    def look(self) -> None:
        """Load what has changed since the last time.

        A renewal replaces two files one after the other. So a pair that does not load is logged only if the next look
        finds the same.
        """
        state = self._state()
        if state == self._loaded:
            return
        try:
            self._take(state)
        except ConfigError as error:
            if state == self._failed:
                self._keep_old(state, error)
            self._failed = state

    def reload(self) -> None:
        """Load it now. If it does not load, log that and keep the old certificate."""
        state = self._state()
        try:
            self._take(state)
        except ConfigError as error:
            self._keep_old(state, error)

    def _take(self, state: State) -> None:
        self.context = self._load()  # a new one: a wrong pair would spoil the one in use
        self._loaded = state
        log.info("certificate loaded again", listener=self._endpoint, certificate=self._certificate)

    def _keep_old(self, state: State, error: ConfigError) -> None:
        self._loaded = state
        log.error("the new certificate does not load; the old one is kept", error=str(error))

    def _state(self) -> State:
        return tuple(_state_of(path) for path in (self._certificate, self._key) if path is not None)

    def _load(self) -> ssl.SSLContext:
        """Raises ConfigError."""
        certificate, key = self._certificate, self._key or self._certificate
        for what, path in (("certificate", certificate), ("key", key)):
            try:
                open(path, "rb").close()
            except OSError as error:
                raise self._error(f"{what} {path}: {error.strerror}") from None

        def passphrase() -> str:  # without this OpenSSL asks at the terminal, and signals wait
            raise self._error(
                f"key {key} has a passphrase, which cannot be typed here; write the key without one: "
                f"openssl pkey -in {key} -out NEW"
            )

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # of TLS 1.2: each costs us a handshake, and nothing needs it
        try:
            context.load_cert_chain(certificate, self._key, password=passphrase)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise self._error(f"key {key} does not belong to certificate {certificate}") from None
            raise self._error(f"certificate {certificate} with key {key} is not a PEM pair: {error}") from None
        except OSError as error:
            raise self._error(f"certificate {certificate} with key {key}: {error}") from None
        self._check_dates()
        return context

    def _check_dates(self) -> None:
        """Log a certificate that clients will refuse for its dates."""
        now = datetime.now(UTC)
        try:
            with open(self._certificate, "rb") as file:
                chain = x509.load_pem_x509_certificates(file.read())
        except (OSError, ValueError):
            return  # OpenSSL takes more than this does
        for each in chain:
            keys = {"listener": self._endpoint, "certificate": self._certificate, "subject": _name(each)}
            if each.not_valid_after_utc < now:
                log.error("the certificate has expired", since=each.not_valid_after_utc.isoformat(), **keys)
            elif each.not_valid_before_utc > now:
                log.error("the certificate is not valid yet", until=each.not_valid_before_utc.isoformat(), **keys)

    def _error(self, what: str) -> ConfigError:
        return ConfigError(f"listener {self._endpoint}: {what}")


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()
