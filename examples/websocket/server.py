"""A chat for a web page: everybody hears what anybody says.

gatelink serve examples.websocket.server:server
python -m http.server 8000 --bind 127.0.0.1 --directory examples/websocket
Then open http://127.0.0.1:8000/page.html?uid=7
"""

from msgspec import Struct

from gatelink import Listen, Server, Session, StaticTokens, message


@message(11601, name="PageSay", codec="json")
class Say(Struct):
    text: str


@message(11602, name="PageSaid", codec="json")
class Said(Struct):
    uid: int
    text: str


server = Server(
    Listen(endpoint="ws://127.0.0.1:7800", origins=("http://127.0.0.1:8000",)),
    tokens=StaticTokens(),
)


@server.on(Say)
def say(session: Session, message: Say) -> None:
    server.sessions.broadcast(Said(session.uid, message.text))
