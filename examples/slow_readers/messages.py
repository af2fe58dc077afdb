"""A camera's stills, sent in one of three ways, and a film."""

from typing import Literal

from msgspec import Struct

from gatelink import Catalog

catalog = Catalog()


@catalog.message(16001)
class Watch(Struct):
    """Show me the camera.

    latest: only the newest still. recent: as many as fit, the oldest are dropped.
    all: every still, or a close.
    """

    how: Literal["latest", "recent", "all"]


@catalog.message(16002)
class Still(Struct):
    number: int
    picture: bytes


@catalog.message(16003)
class Download(Struct):
    """A request for the film."""


@catalog.message(16004)
class Part(Struct):
    """A part of the film."""

    number: int
    of: int
    data: bytes
