from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from tests.core.link import Link
from zmqdist.core.lineage import Point
from zmqdist.core.messages import (
    Ack,
    Fail,
    Finish,
    Finished,
    Go,
    Heartbeat,
    Hello,
    Message,
    Pong,
    Pull,
    Push,
    Refused,
    Rejoin,
    Stop,
    Version,
    Welcome,
)
from zmqdist.core.pacing import Pacing
from zmqdist.core.worker_actions import Forget, Load, SendToMaster, SendUpdate, Subscribe
from zmqdist.core.worker_state import (
    BEATS_PER_LEASE,
    HELLO_RETRY_S,
    IMPATIENT_S,
    Phase,
    Wait,
    WorkerState,
)
from zmqdist.errors import LocalProtocolError
from zmqdist.staleness import BoundedStaleness, StaleSynchronous

LEASE_S = 8.0
BEAT_S = LEASE_S / BEATS_PER_LEASE
WELCOME = Welcome(
    session=1,
    version=3,
    publish_port=5001,
    next=1,
    ahead=[3],
    complete=False,
    clock=0,
    limit=None,
    lazy_slack=None,
    lease_s=LEASE_S,
)
HELLO = Hello("run", 0, 2, 7, "w")


def joining(max_in_flight: int = 2) -> WorkerState:
    state = WorkerState(
        run="run", epoch=0, partition=2, attempt=7, worker="w", max_in_flight=max_in_flight
    )
    assert state.tick(0.0) == [SendToMaster(HELLO)]
    return state


def active(max_in_flight: int = 2, version: int = 3, **welcome: object) -> WorkerState:
    """Return a worker that has joined and holds a version."""
    state = joining(max_in_flight)
    state.receive(replace(WELCOME, **welcome), 0.0)
    state.receive(Version("run", -1, version, 0), 0.0)
    assert state.phase is Phase.ACTIVE
    return state


def ack(step: int, outcome: str = "applied", session: int = 1, **values: object) -> Ack:
    return replace(Ack(session, step, outcome, version=4, published=3, limit=None), **values)


def step(state: WorkerState, number: int, now: float = 0.0) -> Push:
    """Start a step and push it."""
    assert state.may_start()
    clock, _ = state.start()
    push = Push(state.session, number, state.base.version, clock)
    assert state.push(push, now) == [SendUpdate(push)]
    return push


# ---- joining -----------------------------------------------------------------------------


def test_hello_is_said_until_answered() -> None:
    state = joining()
    assert state.tick(HELLO_RETRY_S - 0.1) == []
    assert state.tick(HELLO_RETRY_S) == [SendToMaster(HELLO)]
    assert not state.may_start()
    actions = state.receive(WELCOME, 1.5)
    assert actions == [Subscribe(5001), SendToMaster(Pull(1, -1, 0, start=0))]
    assert [state.settled(number) for number in range(5)] == [True, False, False, True, False]
    assert not state.may_start()
    assert state.receive(Version("run", -1, 3, 0), 1.6) == [Load(3)]
    assert state.may_start()
    assert state.tick(1.7) == []


def test_of_two_welcomes_the_later_counts() -> None:
    state = joining()
    state.receive(WELCOME, 0.0)
    again = state.receive(replace(WELCOME, session=2), 0.0)
    assert again == [SendToMaster(Pull(2, -1, 0, start=0))]
    assert state.receive(WELCOME, 0.0) == []
    assert state.session == 2


def test_complete_partition_is_done_at_once() -> None:
    state = joining()
    assert state.receive(replace(WELCOME, complete=True), 0.0) == []
    assert state.complete
    assert state.phase is Phase.FINISHED
    assert state.tick(100.0) == []


@pytest.mark.parametrize(("session", "stops"), [(0, True), (1, True), (2, False)])
def test_stop_of_this_session_or_of_all(session: int, stops: bool) -> None:
    state = active()
    state.receive(Stop(session, "enough"), 0.0)
    assert (state.phase is Phase.STOPPED) == stops
    assert (state.reason == "enough") == stops


def test_refusals_are_kept() -> None:
    state = active()
    assert state.receive(Refused("no"), 0.0) == []
    assert state.refusals == ["no"]
    assert state.phase is Phase.ACTIVE


def test_nothing_wakes_who_is_over() -> None:
    """A late `Rejoin` once brought a finished worker back, to hold everybody up."""
    messages: list[Message] = [
        *(Rejoin(1), replace(WELCOME, session=9), Version("run", -1, 9, 0), ack(1), Go(1, 5)),
        *(Finished(1, True, 2), Stop(0, "late")),
    ]
    finished, stopped, failed, lost = active(), active(), active(), active()
    finished.finish(4, 0.0)
    finished.receive(Finished(1, True, 4), 0.0)
    stopped.receive(Stop(1, "enough"), 0.0)
    failed.fail(2, "gradient", "ValueError", "")
    lost.tick(BEAT_S)
    lost.tick(BEAT_S + LEASE_S + 0.1)
    phases = [Phase.FINISHED, Phase.STOPPED, Phase.STOPPED, Phase.LOST]
    for state, phase in zip((finished, stopped, failed, lost), phases, strict=True):
        assert state.phase is phase
        reason = state.reason
        for message in messages:
            assert state.receive(message, 50.0) == []
        assert state.tick(100.0) == []
        assert state.want(100.0) == []
        assert (state.phase, state.reason, state.session) == (phase, reason, 1)


# ---- steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", [1, 2, 3])
def test_credit_bounds_what_is_under_way(credit: int) -> None:
    state = active(credit)
    for number in range(credit):
        step(state, number)
    assert not state.may_start()
    assert state.receive(ack(0), 0.0) == [Forget(0)]
    assert state.may_start() == (credit > 1 or state.version >= 3)
    assert state.receive(ack(0), 0.0) == []


def test_a_step_is_pushed_once() -> None:
    state = active()
    push = step(state, 1)
    with pytest.raises(LocalProtocolError, match="step 1 is already under way"):
        state.push(push, 0.0)


def test_limit_gates_and_only_grows_within_a_session() -> None:
    state = active(limit=0)
    step(state, 1)
    assert not state.may_start()
    assert state.want(0.0) == []
    state.receive(Go(2, 9), 0.0)
    assert not state.may_start()
    state.receive(Go(1, 1), 0.0)
    assert state.may_start()
    state.receive(ack(1, limit=0), 0.0)  # sent before the Go, came after it
    assert state.may_start()
    step(state, 2)
    assert not state.may_start()
    state.receive(Pong(1, 2), 0.0)
    assert state.may_start()
    state.receive(Go(1, None), 0.0)
    assert state.may_start()


def test_one_in_flight_waits_for_what_is_published() -> None:
    state = active(1)
    step(state, 1)
    state.receive(ack(1, published=5, version=6), 0.0)
    assert not state.may_start()
    assert state.want(0.0) == [SendToMaster(Pull(1, 3, 5))]
    assert state.want(0.0) == []
    state.receive(Version("run", 3, 5, 0), 0.0)
    assert state.may_start()
    assert state.start() == (1, True)
    assert state.base == (0, 5)


@pytest.mark.parametrize(("credit", "starts"), [(1, False), (2, True)])
def test_one_in_flight_begins_on_what_is_published(credit: int, starts: bool) -> None:
    """What an earlier partition left may lack the broadcast of its own last update."""
    state = WorkerState(
        run="run",
        epoch=0,
        partition=2,
        attempt=7,
        worker="w",
        max_in_flight=credit,
        have=Point(0, 2),
    )
    welcome = replace(WELCOME, published=3)
    wanted = 3 if credit == 1 else 0
    assert state.receive(welcome, 0.0) == [Subscribe(5001), SendToMaster(Pull(1, 2, wanted))]
    assert state.may_start() == starts
    state.receive(Version("run", 2, 3, 0), 0.0)
    assert state.may_start()


def test_what_was_answered_before_it_was_sent_stays_here() -> None:
    """The step was sent twice, turned down twice, and computed again in between."""
    state = active()
    first = step(state, 1)
    state.receive(ack(1, "requeue"), 0.0)
    assert state.requeued.pop() == 1
    state.receive(Version("run", -1, 4, 0), 0.0)
    second = step(state, 1)
    assert (state.awaits(first), state.awaits(second)) == (False, True)
    state.receive(ack(1, "requeue"), 0.0)
    assert not state.awaits(second)
    third = step(state, 1)
    assert (state.awaits(second), state.awaits(third)) == (False, True)


@pytest.mark.parametrize(("outcome", "requeued"), [("requeue", [1]), ("rejected", [])])
def test_too_stale_means_a_fresh_model_first(outcome: str, requeued: list[int]) -> None:
    state = active()
    step(state, 1)
    actions = state.receive(ack(1, outcome, version=6, need=6), 0.0)
    assert actions == [Forget(1, applied=False), SendToMaster(Pull(1, 3, 6))]
    assert state.requeued == requeued
    assert not state.may_start()
    state.receive(Version("run", 3, 5, 0), 0.0)  # a broadcast, before the answer
    assert state.want(0.0) == []
    assert not state.may_start()
    state.receive(Version("run", 3, 6, 0), 0.0)
    assert state.may_start()


# ---- versions --------------------------------------------------------------------------------


def test_gap_is_pulled_once() -> None:
    state = active()
    assert state.receive(Version("run", 3, 4, 0), 0.0) == [Load(4)]
    assert state.receive(Version("run", 5, 6, 0), 0.0) == [SendToMaster(Pull(1, 4, 0))]
    assert state.receive(Version("run", 6, 7, 0), 0.0) == []
    assert state.version == 4
    assert state.receive(Version("run", 4, 7, 0), 0.0) == [Load(7)]
    assert state.receive(Version("run", 8, 9, 0), 0.0) == [SendToMaster(Pull(1, 7, 0))]


@pytest.mark.parametrize(
    "version", [Version("run", 2, 3, 0), Version("run", -1, 2, 0), Version("other", 3, 4, 0)]
)
def test_old_or_foreign_version_is_ignored(version: Version) -> None:
    state = active()
    assert state.receive(version, 0.0) == []
    assert state.version == 3


def test_who_hears_no_broadcast_yet_asks_for_what_is_published() -> None:
    state = active()
    step(state, 1)
    state.receive(ack(1, published=5), 0.0)
    assert not state.may_start()
    assert state.want(0.0) == [SendToMaster(Pull(1, 3, 5))]
    assert state.receive(Version("run", 3, 5, 0), 0.0) == [Load(5)]
    step(state, 2)
    assert state.receive(Version("run", 5, 6, 0), 0.0) == [Load(6)]  # nobody asked for it
    state.receive(ack(2, published=9), 0.0)
    assert state.may_start()  # what is published comes by itself


def test_lost_pull_is_repeated() -> None:
    state = joining()
    state.receive(WELCOME, 0.0)
    assert state.tick(BEAT_S - 0.1) == []
    assert SendToMaster(Pull(1, -1, 0, start=0)) in state.tick(BEAT_S)
    assert state.tick(BEAT_S + 0.1) == []


def test_lazy_model_is_kept_until_it_is_too_old() -> None:
    state = active(lazy_slack=1, limit=99)
    assert state.start() == (0, True)
    assert state.start() == (1, False)
    assert not state.may_start()  # clock 2 needs all updates of clock 0
    assert state.want(0.0) == [SendToMaster(Pull(1, 3, 0))]
    assert state.receive(Version("run", 3, 4, 0), 0.0) == [Load(4)]
    assert not state.may_start()
    assert state.want(0.0) == []  # not again for each version that does not help
    state.receive(Version("run", 4, 5, 2), 0.0)
    assert state.may_start()
    assert state.start() == (2, True)
    assert (state.base, state.start(), state.may_start()) == ((0, 5), (3, False), False)
    state.receive(Version("run", 5, 5, 4), 0.0)  # nothing new, but everybody got on
    assert state.may_start()


def test_lazy_model_is_kept_with_one_update_in_flight_too() -> None:
    state = active(max_in_flight=1, lazy_slack=5, limit=99)
    assert state.start() == (0, True)
    state.push(Push(0, 1, 3, 0), 0.0)
    state.receive(Ack(1, 1, "applied", version=4, published=4, limit=99), 0.0)
    assert state.may_start()
    assert state.start() == (1, False)
    assert state.base.version == 3


def test_lazy_worker_asks_when_its_limit_has_moved_and_no_sooner() -> None:
    """Before that, no answer can hold what it lacks: it would ask at each poll."""
    state = active(lazy_slack=0, limit=0)
    step(state, 1)
    assert state.want(0.0) == []
    state.receive(Version("run", 4, 5, 0), 0.0)  # a gap, and an answer that is too old
    state.receive(Version("run", 3, 5, 0), 0.0)
    state.receive(Go(1, 1), 0.0)
    assert state.want(0.0) == [SendToMaster(Pull(1, 5, 0))]
    state.receive(Version("run", 5, 6, 1), 0.0)
    assert state.may_start()


def test_eager_model_is_read_each_time() -> None:
    state = active()
    assert state.start() == (0, True)
    assert state.start() == (1, True)


# ---- silence -----------------------------------------------------------------------------------


def test_heartbeat_and_resends() -> None:
    state = active()
    push = step(state, 1, now=0.5)
    assert state.tick(IMPATIENT_S - 0.1) == []
    assert state.tick(IMPATIENT_S) == [SendToMaster(Heartbeat(1))]  # a push waits: ask sooner
    assert state.tick(BEAT_S) == [SendToMaster(Heartbeat(1, 1))]
    assert state.tick(BEAT_S + 0.5) == [SendUpdate(push)]
    assert state.tick(BEAT_S + 0.6) == []
    assert state.tick(BEAT_S + IMPATIENT_S) == [SendToMaster(Heartbeat(1, 2))]


def test_heartbeat_of_a_worker_that_waits_for_nothing() -> None:
    state = active()
    assert state.tick(BEAT_S - 0.1) == []
    assert state.tick(BEAT_S) == [SendToMaster(Heartbeat(1))]
    assert state.tick(2 * BEAT_S - 0.1) == []


def test_finish_is_repeated_until_answered() -> None:
    state = active()
    assert state.finish(4, 0.0) == [SendToMaster(Finish(1, 4))]
    assert state.tick(BEAT_S) == [SendToMaster(Heartbeat(1)), SendToMaster(Finish(1, 4))]
    state.receive(Rejoin(1), BEAT_S)
    rejoined = state.receive(replace(WELCOME, session=2), BEAT_S)
    assert SendToMaster(Finish(2, 4)) in rejoined
    state.receive(Finished(1, False, 0), BEAT_S)
    assert state.phase is Phase.ACTIVE
    state.receive(Finished(2, True, 4), BEAT_S)
    assert (state.phase, state.complete) == (Phase.FINISHED, True)


def test_times_go_with_the_end_of_one_session_only() -> None:
    """The master may have heard it: an answer was lost, and so was the session."""
    state = active()
    finish = Finish(1, 4, wait_ack_s=0.5, travel_s=0.25)
    assert state.finish(4, 0.0, wait_ack_s=0.5, travel_s=0.25) == [SendToMaster(finish)]
    assert SendToMaster(finish) in state.tick(BEAT_S)
    state.receive(Rejoin(1), BEAT_S)
    rejoined = state.receive(replace(WELCOME, session=2), BEAT_S)
    assert SendToMaster(Finish(2, 4)) in rejoined
    assert SendToMaster(Finish(2, 4)) in state.tick(2 * BEAT_S)


def test_finish_of_a_partition_that_was_complete_meanwhile() -> None:
    state = active()
    state.finish(4, 0.0)
    state.receive(Rejoin(1), 0.0)
    assert state.receive(replace(WELCOME, session=2, complete=True), 0.0) == []
    assert (state.phase, state.complete) == (Phase.FINISHED, True)


def test_hole_in_the_ledger_ends_the_attempt_incomplete() -> None:
    state = active()
    state.finish(4, 0.0)
    state.receive(Finished(1, False, 2), 0.0)
    assert (state.phase, state.complete) == (Phase.FINISHED, False)


def test_copy_is_told_that_the_partition_is_complete() -> None:
    state = active()
    step(state, 1)
    state.receive(Finished(1, True, 4), 0.0)
    assert (state.phase, state.complete) == (Phase.STOPPED, True)
    assert state.reason == "another attempt has completed this partition"


def test_silent_master_is_lost() -> None:
    state = active()
    for now in (2.0, 4.0, 6.0, 8.0, 10.0):
        state.tick(now)
        assert state.phase is Phase.ACTIVE
    state.tick(BEAT_S + LEASE_S + 0.1)
    assert state.phase is Phase.LOST
    assert not state.may_start()


def test_any_message_shows_that_the_master_lives() -> None:
    state = active()
    for beat in range(1, 20):
        state.tick(beat * BEAT_S)
        if beat % 3 == 0:
            state.receive(Version("run", 3, 3, 0), beat * BEAT_S + 0.5)
    assert state.phase is Phase.ACTIVE


def test_master_is_lost_while_rejoining_too() -> None:
    state = active()
    state.receive(Rejoin(1), 0.0)
    for now in range(1, 9):
        assert state.tick(float(now)) == [SendToMaster(replace(HELLO, passes=0.0))]
    state.tick(8.1)
    assert state.phase is Phase.LOST


def test_own_sleep_is_not_the_masters_silence() -> None:
    """A gradient that keeps the interpreter lock for long stops the socket thread."""
    state = active()
    state.tick(BEAT_S)
    state.receive(Pong(1, None), BEAT_S)
    assert state.tick(1000.0) == [SendToMaster(Heartbeat(1, 1))]
    assert state.tick(1001.0) == []
    assert state.phase is Phase.ACTIVE


def test_rejoin_sends_again_what_is_open() -> None:
    state = active()
    first, second = step(state, 1), step(state, 2)
    state.receive(ack(1), 0.0)
    hello = replace(HELLO, clock=1, passes=0.0)
    assert state.receive(Rejoin(1), 0.0) == [SendToMaster(hello)]
    assert state.receive(Rejoin(1), 0.0) == []
    assert state.receive(ack(2), 0.0) == []  # of the session that is gone
    assert state.receive(replace(WELCOME, session=2, clock=5, next=2), 0.0) == [
        SendUpdate(replace(second, session=2)),
        SendToMaster(Pull(2, 3, 3)),
    ]
    assert state.settled(first.step)
    assert state.receive(ack(2, session=2), 0.0) == [Forget(2)]
    assert state.start() == (5, True)


def test_joined_clock_is_stated_when_rejoining() -> None:
    state = active(clock=5, limit=5)
    state.receive(Rejoin(1), 0.0)
    assert state.tick(HELLO_RETRY_S) == [SendToMaster(replace(HELLO, clock=5, passes=0.0))]


def test_fail_is_sent_and_stops() -> None:
    state = active()
    assert state.fail(2, "gradient", "ValueError: no", "Traceback") == [
        SendToMaster(Fail(1, 2, "gradient", "ValueError: no", "Traceback"))
    ]
    assert state.phase is Phase.STOPPED


# ---- both halves ---------------------------------------------------------------------------------


def test_everybody_evicted_gets_on_again() -> None:
    """When the master alone is held up, all rejoin ahead of where a joiner starts."""
    link = Link(StaleSynchronous(0), partitions=3, steps=6)
    for _ in range(12):
        for worker in link.workers:
            worker.move()
        link.deliver_all()
    assert link.master.slowest() > 0
    link.master.tick(link.now + LEASE_S + 1)
    assert len(link.master.sessions) == 0
    link.run()
    link.check()
    link.check_complete()
    assert len(link.workers) == 3


def test_lost_go_is_made_up_for() -> None:
    link = Link(StaleSynchronous(0), partitions=2, steps=4)
    for _ in range(200):
        link.deliver_all()
        for worker in link.workers:
            worker.move()
            for letter in list(link.letters):
                if letter.up:
                    link.deliver(link.letters.index(letter))
        link.letters = [letter for letter in link.letters if not isinstance(letter.message, Go)]
        link.pass_time(0.25)
    link.check_complete()


def test_rejection_does_not_go_on_for_ever() -> None:
    """With fewer publications than the bound allows, all but the first were rejected."""
    link = Link(BoundedStaleness(0), partitions=2, steps=40, pacing=Pacing(every=50))
    link.run()
    link.check_complete()
    assert link.master.totals.applied >= 20


@pytest.mark.parametrize("max_in_flight", [1, 2])
@pytest.mark.parametrize("slack", [0, 1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_lazy_reads_hold_all_updates_older_than_the_slack(
    slack: int, max_in_flight: int, seed: int
) -> None:
    """The rule of SSP: clock c reads all updates of clocks < c - slack, of everybody."""
    rng = Random(seed)
    policy = StaleSynchronous(slack, "lazy")
    link = Link(policy, partitions=3, steps=12, max_in_flight=max_in_flight, pacing=Pacing(every=4))
    while link.status().missing:
        if link.letters and rng.random() < 0.6:
            link.deliver()
        else:
            rng.choice(link.workers).move()
    version = {action.key: number for number, action in enumerate(link.applied, 1)}
    for clock, base in (start for worker in link.workers for start in worker.started):
        for action in link.applied:
            if action.push.clock < clock - slack:
                assert version[action.key] <= base.version
    bases = [[base for _, base in worker.started] for worker in link.workers]
    assert any(a == b for one in bases for a, b in pairwise(one)) == (slack > 0)


@pytest.mark.parametrize(
    ("outcome", "duplicate", "again", "applied"),
    [
        ("applied", False, False, True),
        ("applied", True, False, False),  # another attempt's update
        ("applied", True, True, True),  # this one's: the first answer was lost
        ("rejected", False, False, False),
        ("requeue", False, False, False),
        ("skipped", False, False, False),
    ],
)
def test_whether_an_update_was_applied(
    outcome: str, duplicate: bool, again: bool, applied: bool
) -> None:
    state = active()
    step(state, 1)
    if again:
        assert any(isinstance(action, SendUpdate) for action in state.tick(BEAT_S))
    actions = state.receive(ack(1, outcome, duplicate=duplicate), BEAT_S)
    assert actions[0] == Forget(1, applied)


def test_an_update_that_goes_to_a_new_session_was_sent_again() -> None:
    state = active()
    step(state, 1)
    state.receive(Rejoin(1), 0.0)
    state.receive(replace(WELCOME, session=2), 0.0)
    assert state.receive(ack(1, session=2, duplicate=True), 0.0)[0] == Forget(1, applied=True)


def test_what_a_worker_waits_for() -> None:
    state = active(limit=1)
    assert state.waits_for() is None
    for number in range(2):
        step(state, number)
    assert state.waits_for() is Wait.ACK  # two are under way
    state.receive(ack(0, limit=1), 0.0)
    assert state.waits_for() is Wait.GATE
    state.receive(ack(1, limit=9, need=5), 0.0)
    assert state.waits_for() is Wait.MODEL
    state.receive(Version("run", 3, 5, 0), 0.0)
    assert state.waits_for() is None
    assert joining().waits_for() is Wait.ACK


def test_a_synchronous_worker_joins_at_the_version_that_the_others_wait_with() -> None:
    state = joining(max_in_flight=3)
    (_, asked) = state.receive(replace(WELCOME, version=7, synchronous=True), 0.0)
    assert asked == SendToMaster(Pull(1, -1, 7, start=0))
    state.receive(Version("run", -1, 6, 0), 0.0)  # broadcast just before
    assert not state.may_start()
    state.receive(Version("run", 6, 7, 0), 0.0)
    step(state, 0)
    assert not state.may_start()  # one at a time
    state.receive(ack(0, need=8, version=7, published=7), 0.0)
    assert not state.may_start()
    state.receive(Version("run", 7, 8, 0), 0.0)
    assert state.may_start()


def test_a_synchronous_worker_that_lost_its_session_does_not_wait_for_its_old_round() -> None:
    """What it left behind stands for nobody: the master waits for an update of the new session."""
    state = active(version=7, synchronous=True)
    step(state, 1)
    state.receive(ack(1, need=8, version=7, published=7), 0.0)
    assert not state.may_start()
    state.receive(Rejoin(1), 1.0)
    state.receive(replace(WELCOME, session=2, version=7, next=2, clock=1, synchronous=True), 1.0)
    assert state.may_start()
    step(state, 2)
