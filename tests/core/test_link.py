"""Compressing is chosen where the link is slow, and not where copying is faster."""

from __future__ import annotations

import pytest

from zmqdist.core.link import AUTO, RAW, SAMPLES, SMALL_BYTES, TRY_AGAIN, Choice, Link

MB = 1 << 20


def choice(link_mb_s: float, auto_mb_s: float, left: float, raw_mb_s: float = 4000.0) -> Choice:
    link = Link()
    link.moved(MB, 1 / link_mb_s)
    made = Choice(link)
    made.took(AUTO, MB, int(left * MB), 1 / auto_mb_s)
    made.took(RAW, MB, MB, 1 / raw_mb_s)
    return made


@pytest.mark.parametrize(
    ("link_mb_s", "auto_mb_s", "left", "expected"),
    [
        (100.0, 500.0, 0.5, AUTO),  # a network of 1 Gbit/s
        (1800.0, 500.0, 0.5, RAW),  # loopback
        (1800.0, 500.0, 0.01, RAW),
        (400.0, 500.0, 0.01, AUTO),
        (1.0, 500.0, 0.99, AUTO),
        (300.0, 4000.0, 1.0, AUTO),  # "auto" copies what does not shrink: no difference
    ],
)
def test_the_cheaper_way_is_chosen(
    link_mb_s: float, auto_mb_s: float, left: float, expected: str
) -> None:
    assert choice(link_mb_s, auto_mb_s, left).next() == expected


def test_the_rule_turns_where_it_says() -> None:
    """Compressing at c bytes/s to r of the size pays below a link of (1 - r) / (1/c - 1/k)."""
    turn = (1 - 0.5) / (1 / 500 - 1 / 4000)
    assert choice(turn * 0.99, 500.0, 0.5).next() == AUTO
    assert choice(turn * 1.01, 500.0, 0.5).next() == RAW


def test_nothing_known_compresses() -> None:
    link = Link()
    assert Choice(link).next() == AUTO
    link.moved(MB, 1e-9)
    assert Choice(link).next() == AUTO


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


def test_compressing_is_tried_again_and_may_pay_now() -> None:
    made = choice(1800.0, 500.0, 0.5)
    assert [made.next() for _ in range(TRY_AGAIN)] == [RAW] * TRY_AGAIN
    assert made.next() == AUTO
    assert made.next() == RAW
    for _ in range(40):
        made.took(AUTO, MB, MB // 100, 1 / 5000)
    assert made.next() == AUTO


def test_small_updates_say_nothing() -> None:
    made = choice(1800.0, 500.0, 0.5)
    for _ in range(40):
        made.took(AUTO, SMALL_BYTES - 1, 0, 0.0)
    assert made.next() == RAW
