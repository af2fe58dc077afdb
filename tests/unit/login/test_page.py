"""The page of the OpenAPI document: all of it, as text, with nothing that runs or comes from elsewhere."""

import html
import json
import re
import shlex
from html.parser import HTMLParser
from typing import Any

from gatelink.login.page import page

EVIL = '"><script>alert(1)</script>'

TEXT = {"type": "string"}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": f"login{EVIL}", "version": "1", "description": f"Lets in.{EVIL}"},
    "paths": {
        "/b": {
            "post": {
                "operationId": "b",
                "summary": f"Do b{EVIL}",
                "description": f"Twice{EVIL}",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
                "responses": {
                    "200": {
                        "content": {"application/json": {"schema": {"type": "array", "items": {"type": "string"}}}}
                    },
                    "403": {"description": f"No{EVIL}"},
                },
            }
        },
        "/a": {"get": {"operationId": "a", "summary": "Read a", "responses": {"204": {}}}},
    },
    "components": {
        "schemas": {
            "Thing": {
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 9, "examples": [EVIL]},
                    "more": {
                        "type": "object",
                        "additionalProperties": {"type": "integer"},
                        "description": EVIL,
                        "examples": [{"a": 1}],
                    },
                    "either": {"oneOf": [{"type": "string"}, {"type": "null"}]},
                    "any": {},
                },
                "required": ["name"],
            }
        }
    },
}


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attributes)
        self.ids |= {found["id"] or ""} if "id" in found else set()
        self.links |= {found["href"] or ""} if "href" in found else set()

    def handle_data(self, data: str) -> None:
        self.text += data


def test_all_of_the_document_is_on_the_page_and_its_text_stays_text() -> None:
    read = Reader(page(DOCUMENT, "/openapi.json"))
    assert not read.tags & {"script", "img", "link", "iframe", "form"}
    assert read.text.count(EVIL) == 8 + 2  # the title twice; the contents and a command say one again
    for what in ("/a", "/b", "Read a", "204", "403", "list of string", "string of 1 to 9", "object of integer"):
        assert what in read.text
    assert 'for example {"a":1}' in read.text
    assert "string or null" in read.text and "may be left out" in read.text
    assert read.text.index("/a") < read.text.index("/b")


def test_every_link_leads_to_the_document_or_to_something_on_the_page() -> None:
    read = Reader(page(DOCUMENT, "/openapi.json"))
    assert read.links == {"/openapi.json", "#schema-Thing", "#a", "#b", "#bodies"}
    assert {link[1:] for link in read.links if link.startswith("#")} <= read.ids


def test_code_in_its_words_is_shown_as_code() -> None:
    document = DOCUMENT | {"info": {"title": "login", "version": "1", "description": "See `Retry-After` & `<b>`."}}
    assert "See <code>Retry-After</code> &amp; <code>&lt;b&gt;</code>." in page(document, "/openapi.json")


def test_the_current_paths_come_first_and_those_of_another_engine_last() -> None:
    get = {"operationId": "x", "summary": "X", "responses": {"204": {}}}
    paths = {
        path: {"get": get | {"operationId": path.strip("/")}} for path in ("/create", "/healthz", "/v1/z", "/v1/a")
    }
    text = Reader(page(DOCUMENT | {"paths": paths}, "/openapi.json")).text
    places = [text.rindex(path) for path in ("/v1/a", "/v1/z", "/healthz", "/create")]
    assert places == sorted(places)


def test_errors_of_several_paths_are_explained_once_and_others_at_their_path() -> None:
    late, wrong, other = ({"description": each} for each in ("Too late.", "Wrong.", "Late, but otherwise."))
    responses = [{"200": {}, "408": late}, {"200": {}, "408": late, "403": wrong}, {"200": {}, "408": other}]
    paths = {
        f"/v1/{index}": {"post": {"operationId": f"op{index}", "summary": "Do", "responses": each}}
        for index, each in enumerate(responses)
    }
    whole = page(DOCUMENT | {"paths": paths}, "/openapi.json")
    text = Reader(whole).text
    assert [text.count(each) for each in ("Too late.", "Wrong.", "Late, but otherwise.")] == [1, 1, 1]
    assert text.index("Wrong.") < text.index("Late, but") < text.index("Too late.")
    assert whole.count('And <a href="#errors">errors of several paths</a>: 408.') == 2


def test_each_path_has_a_command_and_an_answer_with_the_examples_of_the_document() -> None:
    read, write, answer = re.findall("<pre>(?!LOGIN)(.*?)</pre>", page(DOCUMENT, "/openapi.json"), re.DOTALL)
    words = shlex.split(html.unescape(write).replace("\\\n", ""))
    assert words[:-1] == ["curl", "$LOGIN/b", "-H", "content-type: application/json", "-d"]
    assert json.loads(words[-1]) == {"name": EVIL}, "what may be left out is left out"
    assert shlex.split(html.unescape(read)) == ["curl", "$LOGIN/a"]
    assert json.loads(html.unescape(answer)) == ["ok"]
