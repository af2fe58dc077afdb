"""Two servers: players pay at one, the other has the accounts, no coin is lost."""
