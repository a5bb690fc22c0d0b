"""The fuzzer's targets under Hypothesis: what peers control is refused, and nothing else.

`scripts/fuzz` runs the same functions with coverage to guide it, and for longer.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import SEPARATOR, TARGETS, WORDS, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_takes_its_seeds(name: str) -> None:
    assert seeds(name)
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(data=st.binary(max_size=200))
def test_any_octets(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(number=st.integers(0, 2**32))
def test_inputs_that_were_tampered_with(name: str, number: int) -> None:
    chance = random.Random(number)
    octets = bytearray(chance.choice(seeds(name)))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(octets) + 1)
        change = chance.randrange(4)
        if change == 0:
            octets[at : at + chance.randint(1, 20)] = b""
        elif change == 1:
            octets[at:at] = chance.choice([*WORDS, "-1", "1e9", '"', "[]", "null"]).encode()
        elif change == 2 and octets:
            octets[min(at, len(octets) - 1)] = chance.randrange(256)
        else:
            octets[at:at] = SEPARATOR
    TARGETS[name](bytes(octets))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=60)
@given(values=st.lists(json_values, max_size=3), tail=st.lists(st.binary(max_size=30), max_size=2))
def test_any_json(values: list[Any], tail: list[bytes]) -> None:
    parts = [json.dumps(value).encode() for value in values]
    for target in TARGETS.values():
        target(SEPARATOR.join([*parts, *tail]))
