"""What others can make us log or do is bounded, and counted beyond that."""

from __future__ import annotations

from dataclasses import replace

from zmqdist.core.actions import Send
from zmqdist.core.budgets import BURST, EARNED, MAX_PEERS, PER_S, Budgets
from zmqdist.core.ledger import MAX_AHEAD
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import (
    Ack,
    Begin,
    Heartbeat,
    Hello,
    Pong,
    Push,
    Refused,
    Rejoin,
    Welcome,
)
from zmqdist.core.notices import BURST as LINES
from zmqdist.core.notices import INTERVAL_S, Notices
from zmqdist.core.sessions import MAX_ATTEMPTS_AT_ONCE, MAX_TOLD
from zmqdist.staleness import BoundedStaleness
from zmqdist.wire.frames import pack


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


def test_a_worker_that_says_hello_for_ever_fills_no_memory() -> None:
    state = MasterState("run", BoundedStaleness(8), schema={})
    state.receive(b"driver", Begin(2), 0.0)
    for attempt in range(10 * MAX_ATTEMPTS_AT_ONCE):
        actions = state.receive(b"peer", Hello("run", 0, 0, attempt, "w"), 0.0)
        assert isinstance(actions[-1], Send)
        assert isinstance(actions[-1].message, Welcome)
    state.receive(b"other", Hello("run", 0, 1, 1, "w"), 0.0)
    assert len(state.sessions) == MAX_ATTEMPTS_AT_ONCE + 1
    newest = actions[-1].message.session
    (pong,) = state.receive(b"peer", Heartbeat(newest), 0.0)
    assert isinstance(pong, Send)
    assert isinstance(pong.message, Pong)
    (rejoin,) = state.receive(b"peer", Heartbeat(1), 0.0)
    assert isinstance(rejoin, Send)
    assert isinstance(rejoin.message, Rejoin)


def test_a_step_out_of_reach_is_refused() -> None:
    state = MasterState("run", BoundedStaleness(8), schema={})
    state.receive(b"driver", Begin(1), 0.0)
    state.receive(b"peer", Hello("run", 0, 0, 1, "w"), 0.0)
    for step, taken in ((MAX_AHEAD, True), (MAX_AHEAD + 1, False), (2**62, False), (-1, False)):
        answers = state.receive(b"peer", Push(1, step, 0, empty=True), 0.0)
        messages = [a.message for a in answers if isinstance(a, Send)]
        assert any(isinstance(m, Ack) for m in messages) is taken
        assert any(isinstance(m, Refused) for m in messages) is not taken


def test_a_welcome_fits_into_a_header_however_much_is_settled_beyond_an_open_step() -> None:
    state = MasterState("run", BoundedStaleness(8), schema={})
    state.receive(b"driver", Begin(1), 0.0)
    state.ledger.standing(0, 0).ahead.update(range(1, MAX_AHEAD))
    (answer,) = state.receive(b"peer", Hello("run", 0, 0, 1, "w"), 0.0)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Welcome)
    assert answer.message.ahead == list(range(1, MAX_TOLD + 1))
    pack(replace(answer.message, ahead=[2**62] * MAX_TOLD))
