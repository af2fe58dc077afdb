"""User names that look the same are the same, and none has characters that nobody sees."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.auth.errors import InvalidCredential
from gatelink.auth.names import clean_name, name_key

SAME = [
    ("Bob", "bob"),
    ("STRASSE", "straße"),
    ("ﬁona", "FIONA"),  # a ligature
    ("Ａｌｉｃｅ", "alice"),  # full width
    ("e\u0301va", "Éva"),  # combining accent
    ("ΣΊΣΥΦΟΣ", "σίσυφος"),  # two forms of sigma
    ("bob@Example.ORG", "BOB@example.org"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_names_that_differ_only_in_case_or_form_are_one_name(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize("name", ["Bob", "山田太郎", "नमस्ते", "x_1.y-z+w@v", "٣٤٥", "a" * 64])
def test_letters_and_digits_of_any_script_and_some_marks_are_allowed(name: str) -> None:
    assert clean_name(name) == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "0 characters"),
        ("ab", "2 characters"),
        ("a" * 65, "65 characters"),
        ("a" * 1_000_000, "1000000 characters"),
        ("ﷺ" * 64, "may have 3 to 64"),  # one character that NFKC makes 18 of
        ("bob smith", r"U\+0020"),
        ("bob\0", r"U\+0000"),
        ("bob\u200b", r"U\+200B"),  # zero-width space
        ("bob\u202e", r"U\+202E"),  # right-to-left override
        ("bob\ufe0f", r"U\+FE0F"),  # variation selector: a mark, and invisible
        ("bob\u3164", r"U\+1160"),  # Hangul filler: a letter, and invisible
        ("bob\U000e0101", r"U\+E0101"),
        ("bob\ud800", r"U\+D800"),
        ("bob/../x", r"U\+002F"),
        ("bob'--", r"U\+0027"),
        ("😀😀😀", r"U\+1F600"),
        (".bob", "must begin"),
        ("\u0301bob", "must begin"),
    ],
)
def test_any_other_name_is_refused_with_the_rule_that_it_breaks(name: str, rule: str) -> None:
    for function in (clean_name, name_key):
        with pytest.raises(InvalidCredential, match=rule) as refused:
            function(name)
        assert len(str(refused.value)) < 120


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_is_refused_and_a_key_is_its_own_key(text: str) -> None:
    try:
        key = name_key(text)
    except InvalidCredential:
        return
    assert name_key(key) == key and 3 <= len(key) <= 64
    assert key == unicodedata.normalize("NFKC", key)
