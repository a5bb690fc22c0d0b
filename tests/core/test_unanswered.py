"""What was lost is sent again as soon as that is known, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.test_worker_state import BEAT_S, IMPATIENT_S, WELCOME, ack, active, step
from zmqdist.core.messages import IN_LINE, Finish, Heartbeat, Pong, Rejoin
from zmqdist.core.unanswered import Unanswered
from zmqdist.core.worker_actions import SendToMaster, SendUpdate

BEAT = [SendToMaster(Heartbeat(1, 0))]
NEXT_BEAT = [SendToMaster(Heartbeat(1, 1))]


def test_an_answered_heartbeat_shows_that_the_update_before_it_is_lost() -> None:
    state = active()
    push = step(state, 1, now=0.5)
    assert state.tick(IMPATIENT_S) == BEAT
    later = step(state, 2, now=1.1)
    assert state.receive(Pong(1, None), 1.2) == [SendUpdate(push)]
    assert state.tick(2.2) == NEXT_BEAT
    assert state.receive(Pong(1, None, 1), 2.3) == [SendUpdate(push), SendUpdate(later)]


def test_an_update_that_was_answered_is_not_sent_again() -> None:
    state = active()
    step(state, 1, now=0.5)
    assert state.tick(IMPATIENT_S) == BEAT
    state.receive(ack(1), 1.1)
    assert state.receive(Pong(1, None), 1.2) == []


@pytest.mark.parametrize("in_line", [False, True])
def test_what_stands_in_line_is_not_sent_again(in_line: bool) -> None:
    """Neither updates nor questions, while the master says that it has them."""
    state = active()
    push = step(state, 1, now=0.5)
    pull = state.ask(0, 0.5)
    assert state.tick(IMPATIENT_S) == BEAT
    if in_line:
        assert state.receive(Pong(1, None, IN_LINE), 2.0) == []
    due = [action for action in state.tick(0.5 + BEAT_S) if action != NEXT_BEAT[0]]
    assert due == ([] if in_line else [SendUpdate(push), *pull])
    if in_line:  # but not for ever
        assert SendUpdate(push) in state.tick(2.0 + BEAT_S)


def test_heartbeats_are_told_apart() -> None:
    """Those before the update say nothing of it; lost ones do not delay what others say."""
    state = active()
    assert state.tick(BEAT_S) == BEAT
    push = step(state, 1, now=BEAT_S + 0.1)
    assert state.tick(BEAT_S + IMPATIENT_S) == NEXT_BEAT
    assert state.tick(BEAT_S + 2 * IMPATIENT_S) == [SendToMaster(Heartbeat(1, 2))]
    assert state.receive(Pong(1, None, 0), 4.5) == []
    assert state.receive(Pong(1, None, 2), 4.6) == [SendUpdate(push)]
    assert state.receive(Pong(1, None, 3), 4.7) == []


def test_the_end_of_the_partition_is_announced_again_too() -> None:
    state = active()
    assert state.finish(1, 0.0) == [SendToMaster(Finish(1, 1))]
    unanswered = state._unanswered
    unanswered.beat(0.5)
    assert state.receive(Pong(1, None), 0.6) == [SendToMaster(Finish(1, 1))]


def test_heartbeats_of_an_earlier_session_do_not_count() -> None:
    state = active()
    push = step(state, 1, now=0.5)
    assert state.tick(IMPATIENT_S) == BEAT
    state.receive(Rejoin(1), 1.1)
    again = replace(push, session=2)
    welcome = state.receive(replace(WELCOME, session=2), 1.2)
    assert SendUpdate(again) in welcome
    assert state.receive(Pong(2, None), 1.3) == []


def test_nothing_is_sent_again_without_a_heartbeat() -> None:
    assert Unanswered().beat_answered(0, 1, 0.0) == []
