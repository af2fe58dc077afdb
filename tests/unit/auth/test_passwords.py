"""Passwords are hashed with argon2id, off the loop, with a bound on how many wait, and are shown nowhere."""

import asyncio
import threading
import unicodedata
from typing import Any

import pytest
from argon2 import extract_parameters

from gatelink import ConfigError
from gatelink.auth.errors import InvalidCredential, Unavailable
from gatelink.auth.passwords import Busy, PasswordHashing

PASSWORD = "correct horse battery"


def cheap(**settings: Any) -> PasswordHashing:
    return PasswordHashing(**({"memory_kib": 8, "passes": 1} | settings))


class Held(PasswordHashing):
    """Hashes nothing until it is let."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(memory_kib=8, passes=1, **settings)
        self.let = threading.Event()
        self.entered = threading.Event()

    def _matches(self, encoded: str, secret: bytes) -> bool:
        self.entered.set()
        assert self.let.wait(10)
        return super()._matches(encoded, secret)


async def test_a_password_matches_its_hash_and_no_other_does() -> None:
    hashing = cheap()
    encoded = await hashing.hash(PASSWORD)
    assert await hashing.verify(encoded, PASSWORD)
    assert not await hashing.verify(encoded, PASSWORD + "!")
    assert encoded != await hashing.hash(PASSWORD), "the salt is new each time"
    hashing.close()


def test_the_defaults_are_owasps_least_for_argon2id() -> None:
    """Password Storage Cheat Sheet: Argon2id, 19 MiB, 2 iterations, 1 degree of parallelism."""
    found = extract_parameters(PasswordHashing()._dummy)
    assert (found.type.name, found.memory_cost, found.time_cost, found.parallelism) == ("ID", 19 * 1024, 2, 1)


async def test_the_check_for_a_missing_account_costs_what_any_check_costs() -> None:
    hashing = cheap(memory_kib=64, passes=3)
    real = await hashing.hash(PASSWORD)
    assert extract_parameters(hashing._dummy) == extract_parameters(real)
    before = hashing.runs
    assert not await hashing.verify(None, PASSWORD)
    assert hashing.runs == before + 1
    hashing.close()


async def test_one_keyboards_accent_is_anothers() -> None:
    """RFC 8265, OpaqueString: NFC."""
    hashing = cheap()
    composed, decomposed = (unicodedata.normalize(form, "crème brûlée") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert await hashing.verify(await hashing.hash(composed), decomposed)
    hashing.close()


@pytest.mark.parametrize("password", ["é" * 129, "x" * 257, "x" * 1_000_000, "\ud800" * 10], ids=len)
async def test_a_password_that_is_too_long_or_no_text_is_refused_before_any_work(password: str) -> None:
    hashing = cheap()
    with pytest.raises(InvalidCredential) as refused:
        await hashing.hash(password)
    assert password not in str(refused.value)
    assert not await hashing.verify(hashing._dummy, password)
    assert hashing.runs == 0


async def test_a_new_password_has_a_least_length_and_an_old_shorter_one_still_works() -> None:
    old, new = cheap(min_length=4), cheap(min_length=8)
    encoded = await old.hash("four")
    with pytest.raises(InvalidCredential, match="4 characters.* 8 or more"):
        await new.hash("four")
    assert await new.verify(encoded, "four")
    old.close()
    new.close()


@pytest.mark.parametrize("change", [{"memory_kib": 16}, {"passes": 2}, {"lanes": 2, "memory_kib": 16}], ids=str)
async def test_a_hash_of_other_parameters_is_outdated(change: dict[str, int]) -> None:
    before, after = cheap(), cheap(**change)
    encoded = await before.hash(PASSWORD)
    assert not before.is_outdated(encoded) and after.is_outdated(encoded)
    assert await after.verify(encoded, PASSWORD)
    before.close()
    after.close()


async def test_over_the_bound_of_waiting_passwords_there_is_busy_and_then_room_again() -> None:
    hashing = Held(threads=1, max_waiting=2)
    waiting = [asyncio.create_task(hashing.verify(None, PASSWORD)) for _ in range(3)]
    await asyncio.sleep(0)  # the tasks begin: one is hashed, two wait
    assert hashing.waiting == 3
    with pytest.raises(Busy) as busy:
        await hashing.verify(None, PASSWORD)
    assert isinstance(busy.value, Unavailable) and hashing.refused == 1
    hashing.let.set()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert not await hashing.verify(None, PASSWORD)
    hashing.close()


async def test_a_caller_that_gives_up_leaves_its_place_only_when_the_thread_is_done() -> None:
    """Otherwise clients that connect and hang up could have any number of hashes under way, each with its memory."""
    hashing = Held(threads=1, max_waiting=1)
    running, queued = (asyncio.create_task(hashing.verify(None, PASSWORD)) for _ in range(2))
    assert await asyncio.to_thread(hashing.entered.wait, 10)
    assert hashing.waiting == 2
    running.cancel()
    queued.cancel()
    await asyncio.gather(running, queued, return_exceptions=True)
    assert hashing.waiting == 1, "the one that waited is gone, the one in the thread is not"
    hashing.let.set()
    assert not await hashing.verify(None, PASSWORD)
    assert hashing.waiting == 0
    hashing.close()


async def test_hashing_leaves_the_loop_free() -> None:
    hashing = Held(threads=1)
    check = asyncio.create_task(hashing.verify(None, PASSWORD))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not check.done()
    hashing.let.set()
    await check
    hashing.close()


async def test_it_hashes_again_after_it_was_closed() -> None:
    hashing = cheap()
    await hashing.hash(PASSWORD)
    hashing.close()
    hashing.close()
    assert await hashing.hash(PASSWORD)
    hashing.close()


@pytest.mark.parametrize("name", ["memory_kib", "passes", "lanes", "threads", "max_waiting", "min_length", "max_bytes"])
def test_a_setting_that_cannot_work_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        PasswordHashing(**{name: 0})
