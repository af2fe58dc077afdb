"""A camera's stills, wanted in one of three ways, and a film, wanted whole."""

from typing import Literal

from msgspec import Struct

from gatelink import Catalog

catalog = Catalog()


@catalog.message(16001)
class Watch(Struct):
    """latest: the newest still is enough. recent: as many as fit, the oldest go first. all: every one, or none."""

    how: Literal["latest", "recent", "all"]


@catalog.message(16002)
class Still(Struct):
    number: int
    picture: bytes


@catalog.message(16003)
class Download(Struct):
    """The film, please."""


@catalog.message(16004)
class Part(Struct):
    """A part of the film."""

    number: int
    of: int
    data: bytes
