"""Python's side of the SDK's codec tests: answers each line of JSON on its standard input with one.

{"make": ID, "seed": N}        -> {"body": HEX}: a random message
{"same": ID, "a": HEX, "b": HEX} -> {"same": BOOL}: whether both bodies decode to the same message
{"take": ID, "body": HEX}      -> {"body": HEX}: decoded and encoded again; or {"error": TEXT}
"""

import json
import math
import struct
import sys
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec

from tests.typescript.messages import CATALOG, Circle, Fixed, Mood, Pair, Point, Square, Tree

TEXTS = ["", "a", "hello", "é", "日本", "𝄞 clef", "x" * 31, "x" * 32, "ü" * 200, '\x00\x1f"\\/', "0" * 70_000]
INTS = [0, 1, -1, 127, 128, -32, -33, -128, -129, 255, 256, 65_535, 65_536, 2**31, 2**32 - 1, 2**32, -(2**31) - 1]
SAFE = [*INTS, 2**53 - 1, -(2**53) + 1]
LONG = [*SAFE, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 9_007_199_254_740_993]
FLOATS = [0.0, -0.0, 1.0, 1.5, -2.25, 1e300, 5e-324, 1 / 3, 123456789.125, 1e21]


def integer(random: Random, values: list[int]) -> int:
    return random.choice(values) if random.random() < 0.7 else random.randint(min(values), max(values))


def text(random: Random) -> str:
    return random.choice(TEXTS) + random.choice(TEXTS[:7])


def anything(random: Random, depth: int = 0) -> Any:
    kinds = 9 if depth < 3 else 6
    match random.randrange(kinds):
        case 0:
            return None
        case 1:
            return random.random() < 0.5
        case 2:
            return integer(random, LONG)
        case 3:
            return random.choice(FLOATS) + 0.1
        case 4 | 5:
            return text(random)
        case 6 | 7:
            return [anything(random, depth + 1) for _ in range(random.randrange(4))]
    return {f"k{n}": anything(random, depth + 1) for n in range(random.randrange(20))}


def tree(random: Random, depth: int = 0) -> Tree:
    count = random.randrange(3) if depth < 3 else 0
    return Tree(integer(random, SAFE), [tree(random, depth + 1) for _ in range(count)])


def point(random: Random) -> Point:
    return Point(random.choice(FLOATS), random.choice(FLOATS))


def everything(cls: type, random: Random) -> Any:
    ms = random.choice([0, 1, 999, 1_700_000_000_123, 2**32 * 1000, 2**34 * 1000 + 5, -1, -62_135_596_800_000 + 1])
    return cls(
        flag=random.random() < 0.5,
        whole=integer(random, SAFE),
        long=integer(random, LONG),
        real=random.choice(FLOATS),
        text=text(random),
        data=random.randbytes(random.choice([0, 1, 255, 256, 70_000])),
        nothing=None,
        perhaps=random.choice([None, text(random)]),
        items=[integer(random, SAFE) for _ in range(random.choice([0, 3, 15, 16, 70]))],
        pair=(integer(random, SAFE), text(random)),
        names={f"n{n}" for n in range(random.choice([0, 3, 20]))},
        ages={f"{text(random)[:50]}{n}": integer(random, SAFE) for n in range(random.choice([0, 3, 20]))},
        by_id={random.choice([0, 1, 2**53 + 1, 2**64 - 1]): point(random) for _ in range(random.randrange(4))},
        mood=random.choice(list(Mood)),
        level=random.choice([1, 2, 3]),
        when=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms),
        at=point(random),
        both=Pair(integer(random, SAFE), text(random)),
        shape=random.choice([Circle(random.choice(FLOATS)), Square(integer(random, SAFE))]),
        mixed=random.choice([None, integer(random, SAFE), text(random)]),
        number=random.choice([integer(random, SAFE), 0.5]),
        tree=tree(random),
        bounded=random.randrange(10),
        word=random.choice(["a", "zé", "abcd"]),
        camel_case=random.randrange(256),
        unset=random.choice([msgspec.UNSET, 5]),
        defaulted=random.choice([[], [1, 2]]),
        whatever=anything(random),
    )


def fixed(cls: type, random: Random) -> Fixed:
    whole = [0, 1, 2**31, 2**53 + 1, 2**63 - 1]
    made: Fixed = cls(
        a=random.randrange(256),
        b=random.randrange(65_536),
        c=random.randrange(2**32),
        d=random.choice([*whole, 2**64 - 1]),
        e=random.randint(-32_768, 32_767),
        f=random.choice([*whole, -1, -(2**63)]),
        g=struct.unpack("<f", struct.pack("<f", random.uniform(-1e6, 1e6)))[0],
        h=random.choice([*FLOATS, math.inf, -math.inf]),
        flag=random.random() < 0.5,
        text=random.choice([*TEXTS[:10], random.randbytes(9).decode("utf-8", "surrogateescape")]),
        data=random.randbytes(random.randrange(300)),
        last=random.randrange(256),
    )
    return made


def make(id: int, seed: int) -> Any:
    random = Random(seed)
    cls = CATALOG.by_id[id].type
    return fixed(cls, random) if issubclass(cls, Fixed) else everything(cls, random)


def answer(line: dict[str, Any]) -> dict[str, Any]:
    if "make" in line:
        return {"body": CATALOG.encode(make(line["make"], line["seed"]))[1].hex()}
    if "same" in line:
        decode = CATALOG.by_id[line["same"]].decode
        return {"same": decode(bytes.fromhex(line["a"])) == decode(bytes.fromhex(line["b"]))}
    try:
        message = CATALOG.by_id[line["take"]].decode(bytes.fromhex(line["body"]))
        return {"body": CATALOG.encode(message)[1].hex()}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
