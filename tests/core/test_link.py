"""Compressing is chosen where the link is slow, and not where copying is faster."""

from __future__ import annotations

import pytest

from zmqdist.core.link import (
    AUTO,
    DECODING,
    RAW,
    SAMPLES,
    SMALL_BYTES,
    TRY_AGAIN,
    Choice,
    Link,
    slowest,
)

MB = 1 << 20


def choice(auto_mb_s: float, left: float, raw_mb_s: float = 4000.0) -> Choice:
    made = Choice()
    made.took(AUTO, MB, int(left * MB), 1 / auto_mb_s)
    made.took(RAW, MB, MB, 1 / raw_mb_s)
    return made


@pytest.mark.parametrize(
    ("link_mb_s", "auto_mb_s", "left", "expected"),
    [
        (100.0, 500.0, 0.5, AUTO),  # a network of 1 Gbit/s
        (1800.0, 500.0, 0.5, RAW),  # loopback
        (1800.0, 500.0, 0.01, RAW),
        (400.0, 500.0, 0.01, RAW),  # to undo it counts as well
        (250.0, 500.0, 0.01, AUTO),
        (1.0, 500.0, 0.99, AUTO),
        (300.0, 4000.0, 1.0, RAW),  # "auto" copies what does not shrink: no difference
    ],
)
def test_the_cheaper_way_is_chosen(
    link_mb_s: float, auto_mb_s: float, left: float, expected: str
) -> None:
    assert choice(auto_mb_s, left).next(link_mb_s * MB) == expected


def test_the_rule_turns_where_it_says() -> None:
    """Compressing at c bytes/s to r of the size pays below (1 - r) / (1.75/c - 1/k) bytes/s."""
    turn = (1 - 0.5) / ((1 + DECODING) / 500 - 1 / 4000)
    assert choice(500.0, 0.5).next(turn * 0.99 * MB) == AUTO
    assert choice(500.0, 0.5).next(turn * 1.01 * MB) == RAW


def test_nothing_known_compresses() -> None:
    assert choice(500.0, 0.5).next(None) == AUTO
    assert Choice().next(1e15) == AUTO


def test_the_fastest_of_the_last_transfers_counts() -> None:
    link = Link()
    assert link.bytes_per_s is None
    link.moved(SMALL_BYTES - 1, 1e-9)
    link.moved(MB, 0.0)
    assert link.bytes_per_s is None
    link.moved(MB, 0.01)
    for _ in range(SAMPLES - 1):
        link.moved(MB, 1.0)
    assert link.bytes_per_s == MB / 0.01
    link.moved(MB, 1.0)
    assert link.bytes_per_s == MB


def test_the_master_goes_by_the_smaller_of_the_updates_that_may_be_meant() -> None:
    link = Link()
    link.told(MB, 1e-9)  # of none before it
    assert link.bytes_per_s is None
    link.told(4 * MB, 0.5)
    assert link.bytes_per_s == 2 * MB
    link.told(MB, 0.25)  # of the first or the second
    assert link.bytes_per_s == 4 * MB
    link.told(MB, 0.0)  # nothing was answered meanwhile
    assert link.bytes_per_s == 4 * MB


def test_the_slowest_link_counts_of_those_that_are_known() -> None:
    links = [Link(), Link(), Link()]
    assert slowest(links) is None
    links[0].moved(MB, 0.5)
    links[2].moved(MB, 0.25)
    assert slowest(links) == 2 * MB


def test_compressing_is_tried_again_and_may_pay_now() -> None:
    made, speed = choice(500.0, 0.5), 1800.0 * MB
    assert [made.next(speed) for _ in range(TRY_AGAIN)] == [RAW] * TRY_AGAIN
    assert made.next(speed) == AUTO
    assert made.next(speed) == RAW
    for _ in range(40):
        made.took(AUTO, MB, MB // 100, 1 / 5000)
    assert made.next(speed) == AUTO


def test_small_updates_say_nothing() -> None:
    made = choice(500.0, 0.5)
    for _ in range(40):
        made.took(AUTO, SMALL_BYTES - 1, 0, 0.0)
    assert made.next(1800.0 * MB) == RAW
