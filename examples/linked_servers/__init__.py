"""Two servers that talk: players pay at the one, the other keeps the accounts, and no coin is lost or paid twice."""
