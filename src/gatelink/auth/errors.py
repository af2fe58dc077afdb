"""What logging in can fail with by nobody's fault: every such error is an `Unavailable`.

Unavailable              try again later
├── Busy                 passwords.py: too many passwords wait to be hashed
├── AccountsUnavailable  accounts.py: the database does not answer, or not in time
├── KeysUnavailable      methods/jwks.py: an issuer's keys could not be had
└── CustomUnavailable    methods/custom.py: the user's own function took too long
"""

from gatelink.errors import GatelinkError


class Unavailable(GatelinkError):
    """Nobody can be logged in this way right now; says nothing of the credentials. The text is for the log."""


class InvalidCredential(GatelinkError):
    """A user name or password that no account may have. The text names the rule and may be shown to who chose it."""
