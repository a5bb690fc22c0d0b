"""What others can make us log or do is bounded, and counted beyond that."""

from __future__ import annotations

from zmqdist.core.budgets import BURST, EARNED, MAX_PEERS, PER_S, Budgets
from zmqdist.core.notices import BURST as LINES
from zmqdist.core.notices import INTERVAL_S, Notices


def test_a_few_lines_pass_and_the_rest_is_counted() -> None:
    notices = Notices()
    assert [notices.due(i / 100) for i in range(LINES)] == [""] * LINES
    assert [notices.due(1.0 + i) for i in range(7)] == [None] * 7
    assert notices.due(INTERVAL_S) == " (7 more of this sort were not logged)"
    assert notices.due(INTERVAL_S) == ""


def test_lines_are_bounded_at_any_rate() -> None:
    many = Notices()
    logged = sum(many.due(i / 10_000) is not None for i in range(600_000))
    assert logged == 60 / INTERVAL_S * LINES


def test_a_peer_that_floods_is_dropped_until_time_has_passed() -> None:
    peers = Budgets()
    assert sum(peers.spend(b"flood", 0.0) for _ in range(10_000)) == BURST
    assert peers.spend(b"other", 0.0)
    assert sum(peers.spend(b"flood", 1.0) for _ in range(10_000)) == PER_S
    assert sum(peers.spend(b"flood", 1_000.0) for _ in range(10_000)) == BURST


def test_a_worker_that_gets_on_is_never_dropped() -> None:
    peers = Budgets()
    for step in range(10 * BURST):
        for _ in range(EARNED):  # its push, and pulls and heartbeats besides
            assert peers.spend(b"worker", 0.0), step
        peers.earn(b"worker")
    peers.earn(b"never heard of")
    assert not peers._left.keys() - {b"worker"}


def test_peers_are_forgotten_when_that_changes_nothing() -> None:
    peers = Budgets()
    for number in range(5 * MAX_PEERS):
        assert peers.spend(b"%d" % number, number / 1_000)
    assert len(peers._left) <= MAX_PEERS
    now = 5 * MAX_PEERS / 1_000
    while peers.spend(b"flood", now):
        pass
    for number in range(3 * MAX_PEERS):
        peers.spend(b"%d" % number, now)
    assert not peers.spend(b"flood", now)
