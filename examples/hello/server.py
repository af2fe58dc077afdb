"""The smallest server: it says hello back."""

from msgspec import Struct

from gatelink import Server, Session, StaticTokens, message


@message(11001)
class Hello(Struct):
    text: str


server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens())


@server.on(Hello)
def hello(session: Session, message: Hello) -> None:
    session.send(Hello(f"{message.text}, {session.uid}!"))
