"""Parts of the model, and the worker that trains in place: asks, answers, no broadcasts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zmqdist.core.lineage import Point
from zmqdist.core.messages import Ack, Pull, Push, Rejoin, Version, Welcome
from zmqdist.core.parts import NEWEST, Parts
from zmqdist.core.worker_actions import Forget, Load, SendPull, SendToMaster, SendUpdate
from zmqdist.core.worker_state import BEATS_PER_LEASE, PULL_RETRY_S, Phase, WorkerState

LEASE_S = 16.0
PATIENCE_S = max(PULL_RETRY_S, LEASE_S / BEATS_PER_LEASE)
WELCOME = Welcome(
    session=1,
    version=3,
    publish_port=5001,
    next=0,
    ahead=[],
    complete=False,
    clock=0,
    limit=None,
    lazy_slack=None,
    lease_s=LEASE_S,
)


def answer(base: int, version: int, part: int = 1) -> Version:
    return Version("run", base, version, 0, part)


# ---- parts alone --------------------------------------------------------------------------


def test_a_part_is_held_from_the_whole_model_on() -> None:
    parts = Parts()
    assert parts.held(1, 5) == 5
    assert parts.ask(1, 9, 5, 0.0) == Pull(9, 5, NEWEST, 1, 0)
    assert parts.answered(answer(5, 8), 5)
    assert (parts.held(1, 5), parts.held(1, 8), parts.held(1, 11)) == (8, 8, 11)
    assert parts.held(2, 5) == 5
    assert parts.ask(1, 9, 5, 0.0).have == 8


def test_a_part_holds_those_of_smaller_numbers() -> None:
    parts = Parts()
    parts.ask(2, 9, 5, 0.0)
    assert parts.answered(answer(5, 8, part=2), 5)
    assert [parts.held(part, 5) for part in (1, 2, 3)] == [8, 8, 5]
    parts.ask(1, 9, 5, 0.0)
    assert parts.answered(answer(8, 9, part=1), 5)
    assert [parts.held(part, 5) for part in (1, 2, 3)] == [9, 8, 5]


def test_an_answer_ends_the_question() -> None:
    parts = Parts(keep_bits=12)
    assert not parts.pending(1)
    assert parts.ask(1, 9, 5, 0.0).keep_bits == 12
    assert parts.pending(1)
    assert not parts.pending(2)
    assert parts.answered(answer(5, 6), 5)
    assert not parts.pending(1)


@pytest.mark.parametrize(("base", "version"), [(6, 9), (2, 4)], ids=["a gap", "older"])
def test_an_answer_that_does_not_fit_leaves_the_question(base: int, version: int) -> None:
    parts = Parts()
    parts.ask(1, 9, 5, 0.0)
    assert not parts.answered(answer(base, version), 5)
    assert parts.pending(1)
    assert parts.held(1, 5) == 5


def test_an_answer_that_nothing_changed_ends_the_question() -> None:
    parts = Parts()
    parts.ask(1, 9, 5, 0.0)
    assert parts.answered(answer(5, 5), 5)
    assert not parts.pending(1)


def test_overdue_until_answered_or_asked_again() -> None:
    parts = Parts()
    parts.ask(1, 9, 5, 10.0)
    parts.ask(2, 9, 5, 11.0)
    assert parts.overdue(11.9, 2.0) == []
    assert parts.overdue(12.0, 2.0) == [1]
    assert parts.overdue(13.0, 2.0) == [1, 2]
    parts.ask(1, 9, 5, 13.0)
    assert parts.overdue(13.0, 2.0) == [2]
    parts.answered(answer(5, 6, part=2), 5)
    assert parts.overdue(15.0, 2.0) == [1]


# ---- the worker ------------------------------------------------------------------------------


def joining(max_in_flight: int = 2, have: int = -1) -> WorkerState:
    state = WorkerState(
        run="run",
        epoch=0,
        partition=2,
        attempt=7,
        worker="w",
        max_in_flight=max_in_flight,
        have=Point(0, have),
        in_place=True,
        keep_bits=12,
    )
    state.tick(0.0)
    return state


def active(max_in_flight: int = 2) -> WorkerState:
    state = joining(max_in_flight)
    state.receive(WELCOME, 0.0)
    state.receive(answer(-1, 3, part=0), 0.0)
    assert state.may_start()
    return state


def pull(have: int, part: int = 0, session: int = 1, keep_bits: int = 12) -> Pull:
    return Pull(session, have, NEWEST, part, keep_bits)


def push(state: WorkerState, step: int) -> None:
    clock, _ = state.start()
    sent = Push(state.session, step, state.parts.held(1, state.version), clock)
    assert state.push(sent, 0.0) == [SendUpdate(sent)]


def test_no_broadcasts_and_the_first_values_are_exact() -> None:
    state = joining()
    assert state.receive(WELCOME, 0.0) == [SendToMaster(replace(pull(-1, keep_bits=0), start=0))]
    assert state.asking
    assert state.receive(answer(-1, 3, part=0), 0.1) == [Load(3)]
    assert not state.asking


def test_of_a_copy_that_is_there_only_the_changes_are_asked_for() -> None:
    state = joining(have=2)
    assert state.receive(WELCOME, 0.0) == []
    assert state.readable
    assert not state.asking
    assert state.ask(1, 0.0) == [SendPull(pull(2, 1))]
    assert state.ask(0, 0.0) == [SendToMaster(pull(2))]
    assert state.asking
    assert state.receive(answer(2, 3, part=0), 0.0) == [Load(3)]
    assert not state.asking


def test_parts_go_on_from_one_partition_to_the_next_within_a_life() -> None:
    state = joining(have=2)
    state.parts.go_on({1: 7, 2: 5})
    state.receive(WELCOME, 0.0)
    assert state.ask(1, 0.0) == [SendPull(pull(7, 1))]
    assert state.ask(2, 0.0) == [SendPull(pull(5, 2))]
    assert state.ask(0, 0.0) == [SendToMaster(pull(2))]
    later = joining(have=2)
    later.parts.go_on({1: 7})
    later.receive(replace(WELCOME, incarnation=1), 0.0)
    assert later.ask(1, 0.0) == [SendPull(pull(-1, 1))]


def test_nothing_changed_ends_the_question_too() -> None:
    state = joining(have=3)
    state.receive(WELCOME, 0.0)
    state.ask(0, 0.0)
    assert state.receive(answer(3, 3, part=0), 0.0) == []
    assert not state.asking


def test_asks_for_one_answer_per_part() -> None:
    state = active()
    assert state.ask(1, 0.0) == [SendPull(pull(3, 1))]
    assert state.ask(1, 0.1) == []
    assert state.ask(0, 0.2) == [SendToMaster(pull(3))]
    assert state.ask(0, 0.3) == []
    assert state.receive(answer(3, 5), 0.4) == [Load(5, 1)]
    assert state.version == 3
    assert state.asking
    assert state.ask(1, 0.5) == [SendPull(pull(5, 1))]
    assert state.receive(answer(3, 7, part=0), 0.6) == [Load(7)]
    assert state.parts.held(1, state.version) == 7
    assert state.ask(0, 0.7) == [SendToMaster(pull(7))]


@pytest.mark.parametrize("part", [0, 1])
def test_an_answer_with_a_gap_or_of_another_run_is_no_answer(part: int) -> None:
    state = active()
    state.ask(part, 0.0)
    assert state.receive(answer(4, 9, part), 0.1) == []
    assert state.receive(replace(answer(3, 9, part), run="other"), 0.1) == []
    assert state.receive(answer(0, 2, part), 0.1) == []
    assert state.ask(part, 0.2) == []


def test_overdue_questions_are_put_again() -> None:
    state = active()
    state.ask(0, 0.0)
    state.ask(1, 1.0)
    state.tick(PATIENCE_S - 0.1)
    assert SendToMaster(pull(3)) in state.tick(PATIENCE_S)
    assert SendPull(pull(3, 1)) not in state.tick(PATIENCE_S + 0.9)
    assert SendPull(pull(3, 1)) in state.tick(PATIENCE_S + 1.0)
    state.receive(answer(3, 4), PATIENCE_S + 1.1)
    state.receive(answer(3, 5, part=0), PATIENCE_S + 1.1)
    later = state.tick(3 * PATIENCE_S)
    assert not any(isinstance(action, SendPull) for action in later)
    assert SendToMaster(pull(5)) not in later


def test_after_a_rejoin_overdue_questions_carry_the_new_session() -> None:
    state = active()
    state.ask(1, 0.0)
    state.receive(Rejoin(1), 0.1)
    assert state.ask(0, 0.2) == []
    assert state.receive(replace(WELCOME, session=2), 0.3) == []
    assert SendPull(pull(3, 1, session=2)) in state.tick(PATIENCE_S)


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_nobody_waits_for_a_newer_model(max_in_flight: int) -> None:
    state = active(max_in_flight)
    push(state, 0)
    ack = Ack(1, 0, "applied", version=9, published=9, limit=None)
    assert state.receive(ack, 0.0) == [Forget(0)]
    assert state.may_start()


def test_what_comes_back_makes_it_ask() -> None:
    state = active()
    push(state, 0)
    requeued = Ack(1, 0, "requeue", version=9, published=9, limit=None, need=9)
    assert state.receive(requeued, 0.0) == [Forget(0, applied=False), SendToMaster(pull(3))]
    assert state.requeued == [0]
    assert not state.may_start()
    state.receive(answer(3, 9, part=0), 0.1)
    assert state.may_start()


def test_who_is_not_there_asks_nothing() -> None:
    state = joining()
    assert state.ask(0, 0.0) == state.ask(1, 0.0) == []
    assert state.phase is Phase.JOINING
