"""Why a login fails.

Unavailable              try again later; this says nothing of the credentials
├── Busy                 passwords.py: too many passwords wait to be hashed
├── AccountsUnavailable  database.py: the database does not answer, or not in time
├── KeysUnavailable      methods/jwks.py: an issuer's keys could not be fetched
└── CustomUnavailable    methods/base.py: the application's own function took too long
LoginRefused             these credentials log nobody in
└── AccountDisabled      accounts.py: they are right, and the account is disabled
InvalidCredential        no account may have this user name or password
"""

from gatelink.errors import GatelinkError


class Unavailable(GatelinkError):
    """This way to log in does not work right now. The text is for the log."""


class LoginRefused(GatelinkError):
    """These credentials log nobody in.

    `reason` is for the log: it may say whether an account exists. The client learns only that it was refused.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class InvalidCredential(GatelinkError):
    """A user name or password that no account may have. The text names the rule and may be shown to the user."""
