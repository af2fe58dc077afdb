"""Which functions may be handlers. A wrong one is refused at start, with what is wrong."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Never, NoReturn, TypeVar

import pytest
from msgspec import Struct

from gatelink.errors import CatalogError
from gatelink.handling.checks import check_answer, check_handler
from gatelink.wire.messages import Catalog

if TYPE_CHECKING:
    from nowhere import Something  # type: ignore[import-not-found]

T = TypeVar("T")
CATALOG = Catalog()


@CATALOG.message(11_001)
class Sum(Struct):
    n: int


@CATALOG.message(11_002, answer=Sum)
class Add(Struct):
    n: int


ADD = CATALOG.find(Add)


def plain(session: Any) -> None: ...


async def asynchronous(session: Any) -> None: ...


@functools.wraps(asynchronous)
def wrapper(*arguments: Any) -> Any:
    return asynchronous(*arguments)


@functools.wraps(plain)
async def awaited(*arguments: Any) -> None:
    plain(*arguments)


def generator(session: Any) -> Any:
    yield


def refused(handler: Callable[..., Any], asynchronous: bool | None = None) -> str:
    """Why the handler is refused; "" if it is not."""
    try:
        check_handler(handler, "Say", "session", asynchronous=asynchronous)
    except CatalogError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("wanted", [None, False, True])
def test_a_handler_is_plain_or_async_as_it_is_called(wanted: bool | None) -> None:
    for each in (asynchronous, awaited):
        why = refused(each, wanted)
        assert "nobody would await it" in why if wanted is False else why == ""
    assert ("write it as `async def`" in refused(plain, wanted)) is (wanted is True)
    assert refused(wrapper, wanted) == "", "what it returns is awaited where that is wanted"
    assert "has a `yield`" in refused(generator, wanted)


def test_a_handler_can_be_called_with_its_arguments() -> None:
    assert refused(print) == refused(lambda *arguments: None) == refused(functools.partial(plain)) == ""
    for wrong in (lambda: None, lambda session, more: None, lambda *, session: None):
        assert "is called with (session)" in refused(wrong)
    assert "<lambda>() can't be" in refused(lambda: None)
    assert "which can't be called" in refused("text")  # type: ignore[arg-type]


def test_a_function_in_c_without_a_signature_is_taken() -> None:
    assert refused(getattr) == ""


def test_of_the_annotations_each_is_looked_at_and_none_need_be_there() -> None:
    def second(session, message: Sum) -> None: ...  # type: ignore[no-untyped-def]

    def both(session: Any, message: Add) -> None: ...

    def for_the_type_checker(session: "Something", message: "Something") -> None: ...

    class Keeper:
        message: Sum  # an attribute, and no argument

        def __call__(self, session: Any, message: Any) -> None: ...

    def check(handler: Callable[..., Any], message: type | None) -> None:
        check_handler(handler, "Add", "session", "message", message=message, messages={Sum, Add})

    with pytest.raises(CatalogError, match="its `message`, the message, is annotated as Sum"):
        check(second, Add)
    for handler in (both, for_the_type_checker, Keeper(), lambda session, message: None):
        check(handler, Add)
        check(handler, None)
    check(second, None)  # it is called with messages of several classes


def returning(annotation: Any) -> Callable[..., Any]:
    def handler(session: Any, message: Any) -> Any: ...

    handler.__annotations__["return"] = annotation
    return handler


def forms(answer: Any) -> list[Any]:
    """What a handler may be annotated to return if it gives `answer` at once or later."""
    return [answer, Awaitable[answer], Coroutine[Sum, Sum, answer], asyncio.Future[answer], asyncio.Task[answer]]


@pytest.mark.parametrize("answer", [Sum, Any, NoReturn, Never, T])
def test_a_handler_of_a_request_returns_its_answer_at_once_or_later(answer: Any) -> None:
    for annotation in forms(answer):
        check_answer(returning(annotation), ADD, False)


@pytest.mark.parametrize("other, name", [(Add, "Add"), (int, "int"), (None, "None"), (list[Sum], "list")])
def test_a_handler_of_a_request_that_returns_something_else_is_refused(other: Any, name: str) -> None:
    for annotation in forms(other):
        with pytest.raises(CatalogError, match=f"^the handler of Add returns {name}.*; Add is answered with Sum$"):
            check_answer(returning(annotation), ADD, False)


def test_the_function_that_a_decorator_wraps_says_what_a_handler_returns() -> None:
    @functools.wraps(returning(Add))
    def decorated(*arguments: Any) -> Any: ...

    with pytest.raises(CatalogError, match="returns Add"):
        check_answer(decorated, ADD, False)


def test_a_handler_that_does_not_say_what_it_returns_is_taken() -> None:
    def for_the_type_checker(session: Any, message: Any) -> "Something": ...

    def silent(session, message): ...  # type: ignore[no-untyped-def]

    for handler in (for_the_type_checker, silent, lambda session, message: Sum(1)):
        check_answer(handler, ADD, False)


def test_a_request_has_one_handler() -> None:
    with pytest.raises(CatalogError, match="has one handler"):
        check_answer(returning(Sum), ADD, True)
