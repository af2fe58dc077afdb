"""The examples' messages, which the tests of one process import side by side."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"
COPIED = {"start"}  # its reader writes it in an empty folder


def registered() -> Iterator[tuple[str, object, str]]:
    """The file, id and name of each message of the default catalog."""
    for file in sorted(EXAMPLES.rglob("*.py")):
        where = file.relative_to(EXAMPLES)
        if where.parts[0] in COPIED:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                for call in node.decorator_list:
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "message":
                        yield str(where), ast.literal_eval(call.args[0]), node.name


def test_no_two_examples_give_one_id_or_name_to_two_messages() -> None:
    places = defaultdict(list)
    for file, id, name in registered():
        places[id].append(file)
        places[name].append(file)
    assert len(places) > 20
    assert not {what: files for what, files in places.items() if len(files) > 1}
