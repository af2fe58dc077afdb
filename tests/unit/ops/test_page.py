"""The server of a game's page: the files of one folder, on this machine alone, and nothing else."""

import asyncio
import http.client
import os
from pathlib import Path

import pytest

from gatelink import ConfigError
from gatelink.ops.page import MAX_FILE, Page, page_origins

ANY = "http://127.0.0.1:0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    (folder / "art").mkdir(parents=True)
    (folder / "index.html").write_text("<p>héllo")
    (folder / "art" / "index.html").write_text("art")
    (folder / "page.js").write_text("1")
    (folder / "hero.png").write_bytes(b"\x89PNG")
    (folder / ".env").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "out").symlink_to(tmp_path / "secret.txt")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / "shown").symlink_to(folder / ".env")
    (folder / "git").symlink_to(folder / ".git")
    os.mkfifo(folder / "pipe")
    return folder


async def ask(page: Page, path: str, method: str = "GET", host: str = "") -> tuple[int, str, bytes]:
    """(status, content type, body)"""

    def exchange() -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(page.url.split("/")[2], timeout=20)
        connection.request(method, path, headers={"Host": host} if host else {})
        reply = connection.getresponse()
        assert reply.headers["Cache-Control"] == "no-store" and reply.headers["X-Content-Type-Options"] == "nosniff"
        found = reply.status, reply.headers["Content-Type"], reply.read()
        connection.close()
        return found

    return await asyncio.to_thread(exchange)


async def test_the_files_of_the_folder_are_served_with_their_types(folder: Path) -> None:
    async with Page(folder, ANY) as page:
        assert await ask(page, "/?x=1") == (200, "text/html; charset=utf-8", "<p>héllo".encode())
        assert await ask(page, "/art/") == (200, "text/html; charset=utf-8", b"art")
        assert await ask(page, "/hero.png") == (200, "image/png", b"\x89PNG")
        status, kind, body = await ask(page, "/page.js")
        assert (status, body) == (200, b"1") and "javascript; charset=utf-8" in kind
        assert await ask(page, "/page.js", "HEAD") == (200, kind, b"")
        (folder / "page.js").write_text("2")
        assert (await ask(page, "/page.js"))[2] == b"2", "a file that is built again is not kept"


OUTSIDE = [
    "/missing",
    "/art",
    "/.env",
    "/art/../.env",
    "/out",
    "/shown",
    "/git/config",
    "/loop",
    "/pipe",
    "/../secret.txt",
    "/%2e%2e/secret.txt",
    "//etc/passwd",
    "/..%2fsecret.txt",
    "/%00",
    "/" + "a" * 5_000,
]


@pytest.mark.parametrize("path", OUTSIDE, ids=[path[:20] for path in OUTSIDE])
async def test_nothing_else_is_served(folder: Path, path: str) -> None:
    async with Page(folder, ANY) as page:
        status, _, body = await ask(page, path)
        assert status == 404 and b"secret" not in body


async def test_a_file_that_is_too_large_and_a_post_are_refused(folder: Path) -> None:
    (folder / "world.bin").touch()
    os.truncate(folder / "world.bin", MAX_FILE + 1)
    async with Page(folder, ANY) as page:
        assert (await ask(page, "/world.bin"))[0] == 413
        assert (await ask(page, "/", "POST"))[0] == 405


async def test_a_file_that_cannot_be_read_is_refused_without_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    async with Page(Path("/proc/self"), ANY) as page:
        assert (await ask(page, "/mem"))[0] == 403, "reading its first page fails, for root too"
    assert not caplog.records


HERE = ["127.0.0.1", "127.0.0.1:8000", "localhost:9000", "[::1]:80", "LOCALHOST", "game.localhost:8000"]
ELSEWHERE = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", "10.0.0.4", "["]


@pytest.mark.parametrize("host", HERE)
async def test_it_answers_by_each_name_of_this_machine(folder: Path, host: str) -> None:
    async with Page(folder, ANY) as page:
        page.tell("")
        assert (await ask(page, "/", host=host))[0] == (await ask(page, "/gatelink.json", host=host))[0] == 200


@pytest.mark.parametrize("host", ELSEWHERE)
async def test_a_site_whose_name_leads_to_loopback_reads_nothing(folder: Path, host: str) -> None:
    async with Page(folder, ANY) as page:
        for path in ("/", "/gatelink.json", "/missing"):  # at once, before anything is told
            status, _, body = await ask(page, path, host=host)
            assert status in (400, 421) and b"h\xc3\xa9llo" not in body


async def test_its_facts_wait_until_it_is_known_where_to_log_in(folder: Path) -> None:
    async with Page(folder, ANY) as page:
        asking = asyncio.create_task(ask(page, "/gatelink.json"))
        assert (await ask(page, "/"))[0] == 200
        assert not asking.done()
        page.tell("http://127.0.0.1:8080")
        assert await asking == (200, "application/json", b'{"login":"http://127.0.0.1:8080"}')
        page.tell("")
        assert (await ask(page, "/gatelink.json"))[2] == b"{}"


async def test_a_page_that_nothing_was_told_stops_while_it_is_asked(folder: Path) -> None:
    async with Page(folder, ANY) as page:
        _, writer = await asyncio.open_connection("127.0.0.1", int(page.url.rstrip("/").rpartition(":")[2]))
        writer.write(b"GET /gatelink.json HTTP/1.1\r\nHost: here\r\n\r\n")
        await ask(page, "/")
    writer.close()


async def test_a_folder_that_is_missing_and_a_port_that_is_taken_are_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no folder .*nowhere"):
        Page(folder / "nowhere", ANY)
    async with Page(folder, ANY) as page:
        with pytest.raises(ConfigError, match="cannot listen"):
            await Page(folder, page.url).__aenter__()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://0.0.0.0:8000", "not loopback"),
        ("http://10.0.0.4:8000", "not loopback"),
        ("https://127.0.0.1:8000", "write it as"),
        ("http://127.0.0.1", "write it as"),
        ("http://127.0.0.1:99999", "write it as"),
        ("http://127.0.0.1:8000/x", "write it as"),
        ("", "write it as"),
    ],
)
def test_a_page_is_on_loopback_alone(folder: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Page(folder, url)


def test_the_origins_of_a_page_are_those_of_each_name_of_loopback() -> None:
    assert page_origins("http://127.0.0.1:8000") == ("http://127.0.0.1:8000", "http://localhost:8000")
    assert page_origins("http://[::1]:80/") == ("http://[::1]", "http://127.0.0.1", "http://localhost")
