"""The scanner finds what tomllib finds, and knows the line of it."""

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatelink.settings.lines import Place, line_of, lines

BARE = st.sampled_from(["a", "b", "c", "d-1_A"])  # few, so that tables are named again
ANY = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A TOML string of one of the four kinds."""
    text = draw(ANY)
    basic = text.replace("\\", "\\\\").replace('"', '\\"')
    literal = text.replace("'", "")
    return draw(
        st.sampled_from(
            [
                f'"{basic}"',
                f'"{basic}\\n # [no] = \\u0041"',
                f"'{literal}'",
                f"'{literal} \\'",
                f'"""\n{basic}\n[no]\n"quoted" ""\\"\\n = """',
                f'"""{basic}"""""',
                f"'''\n{literal}\n'no' = 1 \\''''",
                "'''a'''''",
                '""',
                "''",
            ]
        )
    )


SCALARS = st.one_of(
    strings(),
    st.integers(-9, 9).map(str),
    st.sampled_from(
        ["true", "-1.5e3", "inf", "0xff", "1979-05-27 07:32:00", "1979-05-27T00:32:00.5-07:00", "07:32:00"]
    ),
)
BLANKS = st.sampled_from(["", " ", "\n", " # [no] = '''\n", "\r\n\t"])
KEYS = st.one_of(
    BARE, BARE, ANY.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'), st.just("'a b'")
)


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.tuples(BLANKS, items, BLANKS).map("".join)
    return st.tuples(st.lists(item, max_size=3), st.sampled_from(["", ",\n"])).map(
        lambda parts: "[" + ",".join(parts[0]) + (parts[1] if parts[0] else "") + "]"
    )


def inline_tables(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(KEYS, st.sampled_from(["=", " = "]), values).map("".join)
    return st.lists(pair, max_size=3).map(lambda pairs: "{ " + ", ".join(pairs) + " }")


VALUES = st.recursive(SCALARS, lambda values: arrays(values) | inline_tables(values), max_leaves=6)
DOTTED = st.lists(KEYS, min_size=1, max_size=3).map(" . ".join)
STATEMENTS = st.one_of(
    st.tuples(DOTTED, st.just(" = "), VALUES, st.sampled_from(["", " # why = '\""])).map("".join),
    DOTTED.map(lambda key: f"[ {key} ]"),
    DOTTED.map(lambda key: f"[[{key}]] # [[no]]"),
    st.sampled_from(["", "# only = a comment", "\t"]),
)


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every place of a document, as `tomllib` gives it."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*place, key))


def kept(statements: list[str]) -> str:
    """The statements that make a valid document together: one that contradicts those before it is left out."""
    text = ""
    for statement in statements:
        try:
            tomllib.loads(text + statement + "\n")
        except tomllib.TOMLDecodeError:
            continue
        text += statement + "\n"
    return text


@given(st.lists(STATEMENTS, max_size=12).map(kept))
def test_every_place_of_a_document_is_found_and_no_other(text: str) -> None:
    assert set(lines(text)) == set(places(tomllib.loads(text)))


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(["", "# x"]), max_size=3), VALUES), max_size=6))
def test_every_key_is_found_in_its_line(parts: list[tuple[bool, list[str], str]]) -> None:
    text = ""
    table: Place = ()
    expected: dict[Place, int] = {}
    for number, (begins_a_table, blank, value) in enumerate(parts):
        key = f"key{number}"
        text += "".join(f"{line}\n" for line in blank)
        if begins_a_table:
            table = (f"table{number}",)
            expected[table] = text.count("\n") + 1
            text += f"[{table[0]}]\n"
        statement = f"{key} = {value}\n"
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:  # an inline table with one key twice
            continue
        expected[(*table, key)] = text.count("\n") + 1
        text += statement
    found = lines(text)
    assert {place: found[place] for place in expected} == expected


def test_the_items_of_arrays_have_lines_of_their_own() -> None:
    text = '[gateway]\nlisten = [\n  "a", # first\n  "b",\n\n  {x = 1}]\n'
    text += "[[login.servers]]\nid = 1\n[[login.servers]]\nid = 2\n"
    found = lines(text)
    assert [found["gateway", "listen", index] for index in range(3)] == [3, 4, 6]
    assert found["gateway", "listen", 2, "x"] == 6
    assert (found[("login",)], found["login", "servers"]) == (7, 7)
    assert found["login", "servers", 1] == 9
    assert found["login", "servers", 1, "id"] == 10


def test_a_table_in_an_item_of_an_array_belongs_to_the_last_item() -> None:
    found = lines("[[a]]\n[[a]]\n[a.b]\nc = 1\n[[a.d]]\n[a.d.e]\n")
    assert (found["a", 1, "b"], found["a", 1, "b", "c"], found["a", 1, "d", 0, "e"]) == (3, 4, 6)
    assert ("a", 0, "b") not in found


def test_what_is_not_there_is_where_it_would_be() -> None:
    assert line_of(lines("\n[gateway]\nid = 1\n"), ("gateway", "listen", 0)) == 2
    assert line_of({(): 1}, ("gateway",)) == 1
