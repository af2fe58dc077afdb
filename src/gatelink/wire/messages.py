"""The catalog: the id of each message class on the wire, and its codec.

@message(11001)
class Say(msgspec.Struct):
    text: str

A request names the message that answers it:

@message(11002)
class Join(msgspec.Struct, Request[Joined]):
    room: str
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args, get_origin

from msgspec import Struct

from gatelink.errors import CatalogError, InvalidMessage
from gatelink.wire.base import BASE_IDS, BASE_MESSAGES, ENVELOPE_IDS, FIRST_APPLICATION_ID
from gatelink.wire.codecs import (
    BINARY,
    CODECS,
    MSGPACK,
    PROTOBUF,
    RAW,
    Codec,
    Decode,
    Encode,
    codec_name,
    is_protobuf,
    plain_bytes,
)

_Class = type  # a name that the field `type` of MessageType does not hide

T = TypeVar("T")
Answer = TypeVar("Answer")

FIRST_ID = 5
LAST_ID = 59_999


class Request(Generic[Answer]):
    """A base of message classes that are answered with an `Answer`, a message of the same catalog."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class MessageType:
    """One registered class. `decode` may raise anything on a bad body; the fault is the peer's."""

    id: int
    name: str  # on the wire and in metrics
    type: type
    encode: Encode
    decode: Decode
    codec: str  # its name in `codecs.CODECS`, or `own`
    compress: bool  # whether its bodies may be compressed; not if they hold a secret beside data that a peer chooses
    answer: _Class | None = None  # the class of the message that answers it, if it is a request


class Catalog:
    """Message types by id, class and name. A new catalog has the base messages (ids 1 to 4 and 24).

    The three dictionaries are for reading. `add` and `message` change them.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, MessageType] = {}
        self.by_type: dict[type, MessageType] = {}
        self.by_name: dict[str, MessageType] = {}
        for id, name, cls in BASE_MESSAGES:
            self._insert(id, cls, name, BINARY, compress=False)

    def add(
        self,
        id: int,
        cls: type,
        *,
        name: str | None = None,
        codec: Codec | str | None = None,
        compress: bool = True,
        answer: type | None = None,
    ) -> MessageType:
        """Register `cls` under `id`: 5 to 59999, without the framework's ids.

        name: its name on the wire; None: the name of the class.
        codec: a name in `codecs.CODECS`, or your own codec. None: msgpack for a Struct, protobuf for a class that
            protoc generated, raw for a subclass of bytes.
        compress: whether its bodies may be compressed.
        answer: the class of the message that answers it. A class with the base `Request[...]` has one already.

        Raises CatalogError.
        """
        if reason := _why_not(id):
            raise CatalogError(f"{cls.__qualname__} can't have id {id}: {reason}")
        return self._insert(id, cls, name or cls.__name__, _codec_for(cls, codec), compress, _answer_of(cls, answer))

    def message(
        self,
        id: int,
        *,
        name: str | None = None,
        codec: Codec | str | None = None,
        compress: bool = True,
        answer: type | None = None,
    ) -> Callable[[type[T]], type[T]]:
        """`add` as a class decorator, for your own messages: 11000 to 59999.

        For a message of the original engine, 5 to 10999, give its codec too. Raises CatalogError.
        """
        if not isinstance(id, int):
            raise CatalogError(f"the id of a message is {id!r}; give it an int, as @message(11001)")
        if FIRST_ID <= id < FIRST_APPLICATION_ID and codec is None and _why_not(id) is None:
            raise CatalogError(
                f"id {id} is the original engine's, and your own messages have {FIRST_APPLICATION_ID} to {LAST_ID}; "
                f'for a message of that engine name its codec: @message({id}, codec="binary")'
            )

        def register(cls: type[T]) -> type[T]:
            self.add(id, cls, name=name, codec=codec, compress=compress, answer=answer)
            return cls

        return register

    def of_type(self, cls: type) -> MessageType:
        """The type of a class's messages. Raises CatalogError if the class is not registered."""
        kind = self.by_type.get(cls)
        if kind is None:
            if issubclass(cls, type):
                raise CatalogError("a class is no message; give an object of it, as Hello()")
            if cls.__module__ == "builtins":
                raise CatalogError(f"{cls.__name__} is no message; give an object of a class with @message(id)")
            raise CatalogError(f"{_path(cls)} is not a message of this catalog; decorate it with @message(id)")
        return kind

    def answer_to(self, kind: MessageType) -> MessageType | None:
        """The type of the messages that answer a request of this type; None if it is no request.

        Raises CatalogError if that type is not registered.
        """
        return None if kind.answer is None else self.of_type(kind.answer)

    def find(self, what: type | int | str) -> MessageType:
        """The type with a class, an id or a wire name. Raises CatalogError if there is no such type."""
        if isinstance(what, type):
            return self.of_type(what)
        kind = self.by_id.get(what) if isinstance(what, int) else self.by_name.get(what)
        if kind is None:
            raise CatalogError(f"this catalog has no message {what!r}; register it first")
        return kind

    def encode(self, message: Any) -> tuple[MessageType, bytes]:
        """The type of `message` and its body. Raises CatalogError if its class is not registered."""
        kind = self.of_type(type(message))
        return kind, kind.encode(message)

    def _insert(
        self, id: int, cls: type, name: str, codec: Codec, compress: bool, answer: type | None = None
    ) -> MessageType:
        for what, taken in (
            (f"id {id}", self.by_id.get(id)),
            (f"name {name!r}", self.by_name.get(name)),
            ("class", self.by_type.get(cls)),
        ):
            if taken:
                raise CatalogError(
                    f"{_path(cls)} (id {id}, name {name!r}) has the {what} of "
                    f"{_path(taken.type)} (id {taken.id}, name {taken.name!r}); each is registered once"
                )
        try:
            encode, decode = codec.bind(cls)
        except NameError as error:
            raise CatalogError(
                f"{_path(cls)} names a class that does not exist yet ({error}); "
                f"instead of the decorator, write catalog.add({id}, {cls.__name__}) below both"
            ) from error
        if codec not in CODECS.values():
            encode = _bytes_alone(cls, encode)
        kind = MessageType(id, name, cls, encode, decode, codec_name(codec), compress, answer)
        self.by_id[id] = self.by_type[cls] = self.by_name[name] = kind
        return kind


catalog = Catalog()
"""The default catalog: `message` registers in it, and a server uses it unless it is given another."""

message = catalog.message


def _answer_of(cls: type, answer: type | None) -> type | None:
    """The class that answers `cls`: the one in its base `Request[...]`, or `answer`. Raises CatalogError for two."""
    for base in getattr(cls, "__orig_bases__", ()):
        if get_origin(base) is Request:
            (declared,) = get_args(base)
            if not isinstance(declared, type):
                raise CatalogError(f"{_path(cls)} is a Request[{declared!r}]; name a message class in the brackets")
            if answer is not None and answer is not declared:
                raise CatalogError(f"{_path(cls)} is a Request[{declared.__name__}], and answer={answer.__name__}")
            return declared
    if answer is not None and not isinstance(answer, type):
        raise CatalogError(f"answer={answer!r} of {_path(cls)}; give a message class")
    return answer


def _bytes_alone(cls: type, encode: Encode) -> Encode:
    """`encode` of an application's own codec, with a check: it raises InvalidMessage for a result that is not bytes."""

    def encode_to_bytes(message: Any) -> bytes:
        body: object = encode(message)
        if not isinstance(body, bytes):
            raise InvalidMessage(f"the codec of {cls.__qualname__} gave a {type(body).__name__}; it must give bytes")
        return body if type(body) is bytes else plain_bytes(body)

    return encode_to_bytes


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _why_not(id: int) -> str | None:
    """Why an application can't use `id` (docs/protocol.md, "Base messages"); None if it can."""
    if id in BASE_IDS:
        return "1 to 4 and 24 are the framework's base messages"
    if id in ENVELOPE_IDS:
        return "100 to 199 are the framework's messages between servers"
    if FIRST_ID <= id <= LAST_ID:
        return None
    return f"applications have {FIRST_ID} to {LAST_ID}, new messages 11000 and up (id // 1000 is their server type)"


def _codec_for(cls: type, codec: Codec | str | None) -> Codec:
    if isinstance(codec, str):
        if codec not in CODECS:
            raise CatalogError(f"no codec {codec!r} for {cls.__qualname__}; there are {', '.join(CODECS)}")
        return CODECS[codec]
    if codec is not None:
        return codec
    if issubclass(cls, Struct):
        return MSGPACK
    if issubclass(cls, bytes):
        return RAW
    if is_protobuf(cls):
        return PROTOBUF
    raise CatalogError(
        f"{_path(cls)} has no codec by default; make it a msgspec.Struct (msgpack), a subclass of bytes (raw) "
        "or a protobuf message, or pass codec="
    )
