"""The game as a service of a cluster: `make cluster`."""

from gatelink import Service
from mygame.chat import Chat
from mygame.messages import CHAT

service = Service("chat", type=CHAT)
service.register(Chat(service))
