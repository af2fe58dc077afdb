"""User names: which are allowed, and which are equal."""

import re
import unicodedata

from gatelink.auth.errors import InvalidCredential
from gatelink.auth.schema import MAX_NAME

MIN_NAME = 3
MARKS = "._-@+"

# Invisible letters and marks: Default_Ignorable_Code_Point of Unicode, those of categories L and M.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def clean_name(name: str) -> str:
    """`name` as it is stored and shown: NFKC, so that ﬁ is fi and Ａ is A.

    3 to 64 characters: letters and decimal digits of any script with their combining marks, and `. _ - @ +`; the first
    is a letter or digit. Raises InvalidCredential, which names the violated rule.
    """
    if len(name) > MAX_NAME:
        raise InvalidCredential(f"the user name has {len(name)} characters; it may have {MAX_NAME}")
    name = unicodedata.normalize("NFKC", name)
    if not MIN_NAME <= len(name) <= MAX_NAME:
        raise InvalidCredential(f"the user name has {len(name)} characters; it may have {MIN_NAME} to {MAX_NAME}")
    for character in name:
        category = unicodedata.category(character)
        if not (category[0] in "LM" or category == "Nd" or character in MARKS) or _INVISIBLE.match(character):
            raise InvalidCredential(
                f"the user name has the character U+{ord(character):04X}; allowed: letters, digits, {MARKS}"
            )
    if not (name[0].isalpha() or name[0].isdecimal()):
        raise InvalidCredential("the user name must begin with a letter or a digit")
    return name


def name_key(name: str) -> str:
    """One text for all spellings of a name: NFKC and case folding. Raises InvalidCredential."""
    key = clean_name(name)
    while key != (key := unicodedata.normalize("NFKC", key.casefold())):  # some fold only after normalising
        pass
    return clean_name(key)
