"""Workers that share a replica: one receives, the others look and seldom ask."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.test_worker_state import HELLO, WELCOME, ack
from zmqdist.core.lineage import Point
from zmqdist.core.messages import Pull, Push, Version
from zmqdist.core.sharing import PATIENCE_S, Seen
from zmqdist.core.worker_actions import Load, SendToMaster, SendUpdate, Subscribe
from zmqdist.core.worker_state import WorkerState

LISTEN = Subscribe(5001)
ATTENDED = Seen(3, 1, attended=True)
EMPTY = Seen(-1, 0, attended=True)


def pull(have: int, want: int = 0) -> SendToMaster:
    return SendToMaster(Pull(1, have, want, start=0 if have < 0 else -1))


def sharer(seen: Seen = ATTENDED, max_in_flight: int = 2, **welcome: object) -> WorkerState:
    """Return a worker that has joined and looked."""
    state = WorkerState(
        run="run",
        epoch=0,
        partition=2,
        attempt=7,
        worker="w",
        max_in_flight=max_in_flight,
        have=Point(0, seen.version),
        shared=True,
    )
    assert state.tick(0.0) == [SendToMaster(HELLO)]
    assert state.receive(replace(WELCOME, **welcome), 0.0) == []
    if not seen.elected and seen.attended:
        assert state.look(seen, 0.0) == []
    return state


def push(state: WorkerState, step: int) -> None:
    clock, _ = state.start()
    message = Push(state.session, step, state.base.version, clock)
    assert state.push(message, 0.0) == [SendUpdate(message)]


def test_only_the_elected_one_listens() -> None:
    state = sharer()
    assert state.may_start()
    chosen = replace(ATTENDED, elected=True)
    assert state.look(chosen, 1.0) == [LISTEN, pull(3)]
    assert state.look(chosen, 1.1) == []
    assert state.look(ATTENDED, 1.2) == []


def test_a_silent_receiver_is_not_relied_on() -> None:
    state = sharer()
    assert state.look(replace(ATTENDED, attended=False), 1.0) == [LISTEN, pull(3)]


def test_nobody_listens_before_the_session_is_open() -> None:
    state = WorkerState(run="run", epoch=0, partition=2, attempt=7, worker="w", shared=True)
    state.tick(0.0)
    chosen = Seen(-1, 0, elected=True, attended=True)
    assert state.look(chosen, 0.0) == []
    assert state.receive(WELCOME, 0.1) == []
    assert state.look(chosen, 0.1) == [LISTEN, pull(-1)]


def test_what_others_bring_counts_as_held() -> None:
    state = sharer(EMPTY)
    assert not state.may_start()
    state.look(replace(ATTENDED, version=5, clock=2), 0.1)
    assert state.may_start()
    assert (state.version, state.fresh.clock) == (5, 2)
    state.start()
    assert state.base == (0, 5)
    assert state.receive(Version("run", 3, 5, 0), 0.2) == []
    assert state.receive(Version("run", 5, 6, 0), 0.2) == [Load(6)]


def test_the_first_version_is_left_to_the_receiver_while_it_asks() -> None:
    state = sharer(EMPTY)
    asks = replace(EMPTY, asking=True)
    for tenth in range(1, 100):
        state.look(asks, tenth / 10)
        assert state.want(tenth / 10) == []
    state.look(EMPTY, 10.0)
    assert state.want(9.9 + PATIENCE_S - 0.01) == []
    assert state.want(9.9 + PATIENCE_S) == [pull(-1)]
    assert state.want(9.9 + PATIENCE_S) == [], "it is under way"


def test_a_published_version_is_on_its_way_to_the_receiver() -> None:
    state = sharer(max_in_flight=1)
    push(state, 0)
    state.receive(ack(0, published=4), 1.0)
    assert not state.may_start()
    assert state.want(1.0) == []
    assert state.want(1.0 + PATIENCE_S) == [pull(3, 4)]
    state.look(replace(ATTENDED, version=4), 2.1)
    assert state.may_start()
    push(state, 1)
    state.receive(ack(1, published=5), 9.0)
    assert state.want(9.0) == [], "each wait begins anew"


def test_a_version_that_is_not_published_is_asked_for() -> None:
    state = sharer()
    push(state, 0)
    actions = state.receive(ack(0, "requeue", version=9, published=3, need=9), 1.0)
    assert actions[1:] == [pull(3, 9)]


def test_an_answer_that_comes_late_is_not_waited_for() -> None:
    """Another worker brought what was asked for: nothing is asked again."""
    state = sharer()
    push(state, 0)
    state.receive(ack(0, "requeue", version=9, published=3, need=9), 1.0)
    state.look(replace(ATTENDED, version=9), 1.1)
    assert not state.asking
    kinds = [type(action.message) for action in state.tick(9.0) if isinstance(action, SendToMaster)]
    assert Pull not in kinds
    assert state.receive(Version("run", 3, 8, 0), 1.2) == []


def test_a_torn_replica_is_no_model() -> None:
    torn = replace(ATTENDED, torn=True)
    state = sharer()
    assert state.look(torn, 1.0) == []
    assert not state.may_start()
    assert not state.readable
    assert state.want(1.0) == []
    assert state.want(1.0 + PATIENCE_S) == [pull(3)]
    state.look(ATTENDED, 2.5)
    assert state.may_start()


def test_the_receiver_mends_it() -> None:
    state = sharer()
    chosen = replace(ATTENDED, elected=True)
    state.look(chosen, 1.0)
    state.receive(Version("run", 3, 3, 1), 1.1)
    assert state.look(replace(chosen, torn=True), 1.2) == [pull(3)]
    assert state.look(replace(chosen, torn=True), 1.3) == [], "it is under way"


@pytest.mark.parametrize("listening", [True, False])
def test_alone_it_starts_from_nothing(listening: bool) -> None:
    state = sharer()
    if listening:
        state.look(replace(ATTENDED, elected=True), 1.0)
    state.look(replace(ATTENDED, torn=True), 1.0)
    assert state.alone(2.0) == [*([] if listening else [LISTEN]), pull(-1)]
    assert state.version == -1
    assert not state.may_start()
    assert state.receive(Version("run", -1, 7, 0), 2.1) == [Load(7)]
    assert state.may_start()
    assert state.receive(Version("run", 8, 9, 0), 2.1) == [pull(7)], "it hears of gaps itself"


def test_lazy_reading_waits_for_a_clock_that_the_receiver_brings() -> None:
    state = sharer(replace(ATTENDED, clock=0), lazy_slack=0, limit=10)
    push(state, 0)
    assert not state.may_start()
    assert state.want(1.0) == []
    state.look(replace(ATTENDED, clock=1), 1.1)
    assert state.may_start()


def test_a_new_session_goes_on_without_asking() -> None:
    state = sharer()
    assert state.receive(replace(WELCOME, session=2), 1.0) == []
    state.look(replace(ATTENDED, elected=True), 1.0)
    assert SendToMaster(Pull(3, 3, 0)) in state.receive(replace(WELCOME, session=3), 1.0)
