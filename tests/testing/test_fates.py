"""What becomes of messages follows the seed and the rates, and nothing else."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.testing.fates import Fate, Fates, Name, Rates, truncated

FAULTS = ("drop", "duplicate", "reorder", "delay", "truncate")
COUNTED = {
    "drop": "dropped",
    "duplicate": "duplicated",
    "reorder": "reordered",
    "delay": "delayed",
    "truncate": "truncated",
}
NAMES = [Name("up", "push", partition, step) for partition in range(50) for step in range(200)]


def fates_of(seed: int, names: list[Name] = NAMES, **rates: float) -> dict[Name, Fate]:
    fates = Fates(seed, Rates(**rates))  # type: ignore[arg-type]
    return {name: fates.draw(name) for name in names}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3, 1.0])
def test_each_fault_comes_as_often_as_asked(fault: str, rate: float) -> None:
    fates = Fates(1, Rates(**{fault: rate}))  # type: ignore[arg-type]
    drawn = [fates.draw(name) for name in NAMES]
    happened = {
        "drop": sum(fate.copies == 0 for fate in drawn),
        "duplicate": sum(fate.copies == 2 for fate in drawn),
        "reorder": sum(fate.reordered for fate in drawn),
        "delay": sum(fate.delay_s > 0 for fate in drawn),
        "truncate": sum(fate.cut is not None for fate in drawn),
    }
    n = len(NAMES)
    assert abs(happened[fault] - rate * n) <= 5 * (n * rate * (1 - rate)) ** 0.5  # 5 sigma
    assert {name for name, count in happened.items() if count} <= {fault}
    assert fates.counts == Counter({"seen": n, COUNTED[fault]: happened[fault]})
    assert all(0 <= fate.delay_s <= 0.5 for fate in drawn)


def test_a_seed_hits_the_same_messages_in_any_order() -> None:
    rates = dict.fromkeys(FAULTS, 0.2)
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    assert fates_of(7, **rates) == fates_of(7, shuffled, **rates)
    one, other = fates_of(7, **rates), fates_of(8, **rates)
    assert sum(one[name] != other[name] for name in NAMES) > 0.5 * len(NAMES)


def test_a_message_that_is_sent_again_has_another_fate() -> None:
    fates = Fates(3, Rates(drop=0.5))
    copies = [fates.draw(NAMES[0]).copies for _ in range(64)]
    assert 16 < sum(copies) < 48


def test_only_some_kinds() -> None:
    fates = Fates(1, Rates(drop=1.0, only=frozenset({"ack"})))
    assert fates.draw(Name("up", "push", 0, 0)) == Fate()
    assert fates.draw(Name("down", "ack", 0, 0)) == Fate(copies=0)
    assert fates.counts == {"seen": 1, "dropped": 1}


@given(
    st.lists(st.binary(max_size=9), min_size=1, max_size=5),
    st.floats(0, 1, exclude_max=True),
)
def test_a_truncated_message_is_a_true_beginning(frames: list[bytes], cut: float) -> None:
    kept = truncated(frames, cut)
    assert kept != frames
    assert kept[:-1] == frames[: max(0, len(kept) - 1)]
    assert not kept or frames[len(kept) - 1].startswith(bytes(kept[-1]))
