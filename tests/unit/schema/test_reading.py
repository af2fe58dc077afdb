"""A change that is judged compatible is one: whatever the writer may send, the reader's class decodes it."""

from collections.abc import Callable

import msgspec
import pytest

from gatelink.schema.nodes import CodecName, Schema, StructDef
from gatelink.schema.reading import Reading
from gatelink.schema.rebuild import catalog_of
from tests.unit.schema.random_schemas import Deep, Schemas, is_valid

CHANGES = 1_000
FIELDS = 2_500


@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_a_reader_that_is_judged_compatible_decodes_whatever_the_writer_sends(codec: CodecName) -> None:
    def changed(make: Schemas) -> tuple[Schema, Schema]:
        writer = make.schema(codec)
        return writer, make.changed(writer)

    assert bodies_read(codec, CHANGES, changed) > CHANGES  # or the test shows little


@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_so_does_one_with_another_type_of_one_field(codec: CodecName) -> None:
    assert bodies_read(codec, FIELDS, lambda make: make.one_field(codec)) > FIELDS


def bodies_read(codec: CodecName, seeds: int, pair: Callable[[Schemas], tuple[Schema, Schema]]) -> int:
    """How many bodies of writers their readers decoded, of the pairs that are judged compatible."""
    encode = msgspec.json.encode if codec == "json" else msgspec.msgpack.encode
    read = 0
    for seed in range(seeds):
        make = Schemas(seed)
        writer, reader = pair(make)
        if not is_valid(writer) or not is_valid(reader) or Reading(writer, reader, codec).message("A", "A"):
            continue
        reads, writes = catalog_of(reader).by_id[11001], catalog_of(writer).by_id[11001]
        struct = writer.types["A"]
        assert isinstance(struct, StructDef)
        for _ in range(5):
            try:
                sent = make.body(writer, struct)
            except Deep:
                continue
            body = encode(sent)
            for side, kind in (("the writer itself", writes), ("the reader", reads)):
                try:
                    kind.decode(body)
                except msgspec.ValidationError as error:
                    raise AssertionError(f"seed {seed}: {side} refuses {sent}: {error}\n{writer}\n{reader}") from error
            read += 1
    return read
