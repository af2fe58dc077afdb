"""The game in one process: `make run`."""

from gatelink import Listen, Server, StaticTokens
from mygame.chat import Chat

PAGE = "http://127.0.0.1:8000", "http://localhost:8000"

server = Server(
    "tcp://127.0.0.1:7000",
    Listen(endpoint="ws://127.0.0.1:7800", origins=PAGE),
    tokens=StaticTokens(),  # easy to guess, for this machine alone; a cluster has a login
    resume_plain=True,  # so is this; elsewhere use wss://
)
server.register(Chat(server))
