"""Sends everything back.

`default` gets decoded messages, of any codec; `on_forward` gets the raw frames of other
ids.

gatelink serve examples.codecs.server:server
"""

from typing import Any

from examples.codecs.messages import catalog
from gatelink import RawFrame, Server, Session, StaticTokens, WireOptions

server = Server(
    "tcp://127.0.0.1:7000",
    tokens=StaticTokens(),
    catalog=catalog,
    wire=WireOptions(compress_over=64),
)


@server.default
def echo(session: Session, message: Any) -> None:
    session.send(message)


@server.on_forward
def forward(session: Session, frame: RawFrame) -> None:
    session.send_raw(frame.id, frame.body, frame.flags)
