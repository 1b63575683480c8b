"""Random inputs for parsers: valid documents with random changes, from a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

MAX_BYTES = 8192
"""Of a mutated text. Longer inputs are the subject of tests/push/test_input.py, which measures how time grows."""

_FILLERS = (
    "a",
    "9",
    "0.",
    "-",
    "_",
    " ",
    "\n",
    "\t",
    "\\",
    '"',
    "'",
    "{",
    "[",
    "(",
    ":",
    "*",
    "&",
    ",",
    "é",
    "\u202e",
    "- ",
    "? ",
    "a: ",
    "{a: ",
)
_ODD_NUMBERS = (-1, 0, 1, 2**31, 2**63, 2**64, 10**30, 0.1, -0.0, 1e308, 5e-324, 1_800_000_000)
_ODD_TEXTS = (
    "",
    " ",
    "0",
    "1_000",
    "\uff11\uff12",
    "NaN",
    "null",
    "\x00",
    "\ud83d",
    "\ude00",
    "\r\n",
    "2026-11-21",
    "1e999999",
)

_TEXT_TOKENS = tuple(text.encode(errors="surrogatepass") for text in _ODD_TEXTS)


def mutate_bytes(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    """Return data with one to four changes: bytes or tokens inserted, removed, replaced, repeated, or the end cut."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(changed))
        end = min(len(changed), start + random.choice((0, 1, 2, 8, 64, 512)))
        match random.randrange(6):
            case 0:
                changed[start:end] = random.choice(tokens)
            case 1:
                changed[start:end] = random.randbytes(random.choice((1, 2, 8, 32)))
            case 2:
                changed[start:end] = changed[start:end] * random.choice((2, 3, 100))
            case 3:
                changed[start:start] = random.choice(_FILLERS).encode() * random.choice((1, 10, 1000, MAX_BYTES))
            case 4:
                del changed[start:end]
            case 5:
                del changed[start:]
    return bytes(changed[:MAX_BYTES])


def mutate_json(random: Random, document: object) -> object:
    """Return a JSON document with one to three values replaced, removed or repeated, or keys changed."""
    copied: object = json.loads(json.dumps(document))
    for _ in range(random.randint(1, 3)):
        copied = _mutate_node(random, copied)
    return copied


def _mutate_node(random: Random, node: object) -> object:
    # The deeper the node, the likelier it is changed itself.
    if isinstance(node, dict) and node and random.random() < 0.8:
        key = random.choice(list(node))
        match random.randrange(8):
            case 0:
                del node[key]
            case 1:
                node[random.choice((*_ODD_TEXTS, key.upper(), key + key))] = node[key]
            case _:
                node[key] = _mutate_node(random, node[key])
        return node
    if isinstance(node, list) and node and random.random() < 0.8:
        index = random.randrange(len(node))
        match random.randrange(8):
            case 0:
                del node[index]
            case 1:
                node[index:index] = [node[index]] * random.choice((1, 2, 20))
            case _:
                node[index] = _mutate_node(random, node[index])
        return node
    if isinstance(node, str) and random.random() < 0.4:
        changed = mutate_bytes(random, node.encode(errors="surrogatepass"), _TEXT_TOKENS)
        return changed.decode(errors="replace")
    return make_odd_value(random)


def make_odd_value(random: Random) -> object:
    """Return a value that a parser may not expect."""
    match random.randrange(7):
        case 0:
            return random.choice(_ODD_NUMBERS)
        case 1:
            return random.choice(_ODD_TEXTS)
        case 2:
            return random.choice(_FILLERS) * random.choice((1, 40, 400, 4000))
        case 3:
            return random.choice((None, True, False))
        case 4:
            return random.choice(([], {}, [[]], [{}], {"": {}}))
        case 5:
            nested: object = random.choice(_ODD_NUMBERS)
            for _ in range(random.choice((5, 50, 400))):
                nested = [nested]
            return nested
        case _:
            return [random.choice(_ODD_NUMBERS)] * random.choice((1, 100, 500))


def dump_json(random: Random, document: object) -> bytes:
    """Return a document as JSON, sometimes with digits or characters that Python does not write."""
    data = json.dumps(document).encode()
    if random.random() < 0.3:
        tokens = (
            b"1" * 5000,
            b"1e99999",
            b"-0",
            b"NaN",
            b'"\\ud800"',
            b'{"a":1,"a":2}',
            b"[" * 2000,
            b'"' + b"a" * 500,
        )
        data = mutate_bytes(random, data, tokens)
    return data
