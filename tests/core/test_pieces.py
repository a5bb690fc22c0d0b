"""A large model comes in pieces, of which the last one or a further answer makes a version."""

from __future__ import annotations

from dataclasses import replace

from tests.core.test_sharing import ATTENDED, EMPTY, sharer
from tests.core.test_worker_state import WELCOME, joining
from zmqdist.core.messages import Pull, Version
from zmqdist.core.worker_actions import Load, SendToMaster, Subscribe
from zmqdist.core.worker_state import PULL_RETRY_S, WorkerState


def ask(start: int, have: int = -1, want: int = 0) -> SendToMaster:
    return SendToMaster(Pull(1, have, want, start=start))


def piece(version: int, start: int, end: int) -> Version:
    return Version("run", -1, version, 0, start=start, end=end)


def whole(base: int, version: int) -> Version:
    return Version("run", base, version, 0)


def begun(*pieces: Version) -> WorkerState:
    """Return a worker that has joined and got these."""
    state = joining()
    assert state.receive(WELCOME, 0.0)[-1] == ask(0)
    for message in pieces:
        state.receive(message, 0.0)
    return state


def test_each_piece_is_asked_for_before_the_one_at_hand_is_decoded() -> None:
    state = begun()
    assert state.receive(piece(3, 0, 40), 0.0) == [ask(40), Load(3, piece=True)]
    assert state.receive(piece(3, 40, 80), 0.0) == [ask(80), Load(3, piece=True)]
    assert not state.may_start()
    assert not state.readable
    assert state.receive(piece(3, 80, 0), 0.0) == [Load(3)]
    assert state.may_start()
    assert not state.asking
    assert state.version == 3


def test_pieces_of_several_versions_are_no_version() -> None:
    state = begun(piece(3, 0, 40), piece(5, 40, 80))
    assert state.receive(piece(6, 80, 0), 0.0) == [ask(-1, have=3), Load(6, piece=True)]
    assert not state.readable
    assert state.version == -1
    assert state.receive(whole(3, 5), 0.0) == []  # a broadcast that is older than a piece
    assert state.receive(whole(4, 7), 0.0) == []  # and one that says nothing of the first piece
    assert state.receive(whole(3, 7), 0.0) == [Load(7)]
    assert state.readable
    assert state.version == 7


def test_a_broadcast_may_complete_them() -> None:
    state = begun(piece(3, 0, 40), piece(4, 40, 0))
    assert state.receive(whole(3, 4), 0.0) == [Load(4)]
    assert not state.asking


def test_broadcasts_before_the_last_piece_mean_nothing() -> None:
    state = begun(piece(3, 0, 40))
    assert state.receive(whole(3, 4), 0.0) == []
    assert state.receive(whole(-1, 2), 0.0) == []  # not even all of it, if that is older
    assert state.receive(piece(4, 40, 0), 0.0)[0] == ask(-1, have=3)


def test_the_master_may_send_the_rest_as_a_whole() -> None:
    state = begun(piece(3, 0, 40))
    assert state.receive(whole(-1, 4), 0.0) == [Load(4)]
    assert state.receive(piece(3, 40, 0), 0.0) == []


def test_a_second_answer_is_dropped() -> None:
    state = begun()
    again = state.tick(PULL_RETRY_S)
    assert ask(0) in again
    assert state.receive(piece(3, 0, 40), 2.0) == [ask(40), Load(3, piece=True)]
    assert state.receive(piece(4, 0, 40), 2.0) == []
    assert state.receive(piece(4, 40, 0), 2.0) == [ask(-1, have=3), Load(4, piece=True)]
    assert state.receive(piece(4, 40, 0), 2.0) == []


def test_a_lost_answer_is_asked_for_again() -> None:
    state = begun(piece(3, 0, 40))
    assert ask(40) in state.tick(PULL_RETRY_S)
    state.receive(piece(4, 40, 0), 2.0)
    assert ask(-1, have=3) in state.tick(2 * PULL_RETRY_S)


def test_another_session_goes_on_where_this_one_was() -> None:
    state = begun(piece(3, 0, 40))
    again = state.receive(replace(WELCOME, session=2), 0.0)
    assert again == [SendToMaster(Pull(2, -1, 0, start=40))]


def test_another_life_of_the_master_starts_over() -> None:
    state = begun(piece(3, 0, 40))
    restarted = replace(WELCOME, session=2, incarnation=1)
    assert state.receive(restarted, 0.0)[-1] == SendToMaster(Pull(2, -1, 0, start=0))
    late = replace(piece(9, 0, 40), incarnation=0)
    assert state.receive(late, 0.0) == []


def test_who_shares_stops_when_others_have_brought_it() -> None:
    state = sharer(EMPTY)
    elected = replace(EMPTY, elected=True)
    assert state.look(elected, 0.0) == [Subscribe(5001), ask(0)]
    assert state.receive(piece(3, 0, 40), 0.0) == [ask(40), Load(3, piece=True)]
    assert state.look(replace(ATTENDED, elected=True), 0.0) == []
    assert state.may_start()
    assert state.receive(piece(3, 40, 0), 0.0) == []
    assert state.version == 3


def test_who_shares_asks_for_the_rest_if_what_others_have_brought_is_too_old() -> None:
    state = sharer(EMPTY, version=5, synchronous=True)
    state.look(replace(EMPTY, elected=True), 0.0)
    state.receive(piece(3, 0, 40), 0.0)
    state.look(replace(ATTENDED, elected=True), 0.0)
    assert not state.may_start()
    assert state.receive(piece(3, 40, 0), 0.0) == [ask(-1, have=3, want=5)]
