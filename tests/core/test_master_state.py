from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.link import check_master
from zmqdist.core.actions import (
    Action,
    Admit,
    Apply,
    Dismiss,
    Publish,
    Send,
    SendSnapshot,
)
from zmqdist.core.epochs import DRIVER_LEASES
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import (
    Ack,
    Begin,
    Begun,
    End,
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
    Report,
    Status,
    Stop,
    Welcome,
)
from zmqdist.core.pacing import Pacing
from zmqdist.core.report import MAX_FAILURES
from zmqdist.errors import LocalProtocolError
from zmqdist.staleness import Asynchronous, BoundedStaleness, Policy, StaleSynchronous

LEASE_S = 8.0
DRIVER = b"driver"


class Bench:
    """A `MasterState` and short ways to talk to it; updates are applied at once."""

    def __init__(
        self, policy: Policy | None = None, partitions: int = 3, every: int | None = 1
    ) -> None:
        pacing = Pacing(every=every)
        self.policy = policy or Asynchronous()
        self.state = MasterState(
            "run", self.policy, schema={}, publish_port=5001, lease_s=LEASE_S, pacing=pacing
        )
        self.now = 0.0
        self.epoch = self.begin(partitions)

    def begin(self, partitions: int = 1, key: str = "") -> int:
        *_, sent = self.ask(Begin(partitions, key), DRIVER)
        assert isinstance(sent.message, Begun)
        return sent.message.epoch

    def ask(self, message: Message, peer: bytes = b"peer") -> list[Action]:
        actions = self.state.receive(peer, message, self.now)
        while (apply := next((a for a in actions if isinstance(a, Apply)), None)) is not None:
            actions = self.state.applied(apply)
        return actions

    def answer(self, message: Message, peer: bytes = b"peer") -> Message:
        (sent,) = self.ask(message, peer)
        assert isinstance(sent, Send)
        assert sent.peer == peer
        return sent.message

    def join(self, partition: int = 0, attempt: int = 1, clock: int = 0) -> Welcome:
        peer = f"{partition}/{attempt}".encode()
        hello = Hello("run", self.epoch, partition, attempt, "w", clock)
        *_, sent = self.ask(hello, peer)
        assert isinstance(sent.message, Welcome)
        return sent.message

    def report(self) -> Report:
        report = self.answer(Status("run", self.epoch), DRIVER)
        assert isinstance(report, Report)
        return report


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        check_master(bench.state)


@pytest.fixture
def bench(benches: list[Bench]) -> Bench:
    benches.append(Bench())
    return benches[0]


# ---- joining ---------------------------------------------------------------------------


def test_welcome_says_where_the_partition_stands(bench: Bench) -> None:
    first = bench.join()
    for step in (0, 1, 3):
        bench.ask(Push(first.session, step, 0, step))
    second = bench.join(attempt=2)
    assert second == Welcome(
        session=first.session + 1,
        version=3,
        publish_port=5001,
        next=2,
        ahead=[3],
        complete=False,
        clock=4,
        limit=None,
        lazy_slack=None,
        lease_s=LEASE_S,
        published=bench.state.published,
    )


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello("other", 0, 0, 1, "w"), "another run"),
        (Hello("run", 1, 0, 1, "w"), "a closed epoch"),
        (Hello("run", -1, 0, 1, "w"), "a closed epoch"),
        (Hello("run", 0, 3, 1, "w"), "a closed epoch"),
    ],
)
def test_who_does_not_belong_here_is_stopped(bench: Bench, hello: Hello, reason: str) -> None:
    stop = bench.answer(hello)
    assert isinstance(stop, Stop)
    assert stop.session == 0
    assert reason in stop.reason
    assert len(bench.state.sessions) == 0


def test_a_repeated_hello_leaves_one_session(bench: Bench) -> None:
    first, again = bench.join(), bench.join()
    assert again.session > first.session
    assert [s.number for s in bench.state.sessions] == [again.session]
    assert bench.answer(Heartbeat(first.session)) == Rejoin(first.session)
    hello = Hello("run", 0, 0, 1, "w")  # the same attempt after its socket reconnected
    bench.ask(hello, b"another routing id")
    assert len(bench.state.sessions) == 1


def test_other_messages_are_refused(bench: Bench) -> None:
    assert isinstance(bench.answer(Go(1, 2)), Refused)
    assert isinstance(bench.answer(Refused("you too")), Refused)


# ---- updates ---------------------------------------------------------------------------


def test_an_update_is_applied_once_and_acknowledged(bench: Bench) -> None:
    session = bench.join().session
    push = Push(session, 0, 0, 0, examples=7)
    assert bench.answer(push) == Ack(session, 0, "applied", 1, -1, None)
    assert bench.answer(push) == Ack(session, 0, "applied", 1, -1, None, duplicate=True)
    totals = bench.state.totals
    assert (totals.applied, totals.duplicates, totals.examples) == (1, 1, 7)
    assert bench.state.staleness == {0: 1}


@pytest.mark.parametrize("empty", [False, True])
def test_the_times_of_each_step_count_once(bench: Bench, empty: bool) -> None:
    session = bench.join().session
    push = Push(session, 0, 0, empty=empty, compute_s=2.0, wait_ack_s=0.5, travel_s=0.25)
    bench.ask(push)
    bench.ask(push)
    totals = bench.state.totals
    assert (totals.compute_s, totals.wait_ack_s, totals.travel_s) == (2.0, 0.5, 0.25)


def test_lost_session_rejoins_and_gets_the_outcome_from_the_ledger(benches: list[Bench]) -> None:
    bench = Bench(BoundedStaleness(0))
    benches.append(bench)
    session = bench.join().session
    pushes = [Push(session, 0, 0, 0), Push(session, 1, 0, 1), Push(session, 2, 0, 2, empty=True)]
    outcomes = [bench.answer(push).outcome for push in pushes]
    assert outcomes == ["applied", "rejected", "skipped"]
    bench.now += LEASE_S + 1
    bench.state.tick(bench.now)
    assert bench.answer(pushes[0]) == Rejoin(session)
    again = bench.join(clock=3).session
    for push, outcome in zip(pushes, outcomes, strict=True):
        ack = bench.answer(Push(again, push.step, push.base, push.clock, empty=push.empty))
        assert (ack.outcome, ack.duplicate) == (outcome, True)
    totals = bench.state.totals
    assert (bench.state.version, totals.applied, totals.rejected, totals.skipped) == (1, 1, 1, 1)
    assert totals.duplicates == 3


def test_an_old_session_cannot_push(bench: Bench) -> None:
    zombie, other = bench.join(), bench.join(attempt=2)
    bench.now += LEASE_S - 1
    bench.ask(Heartbeat(other.session))
    bench.now += 2
    bench.state.tick(bench.now)
    assert bench.answer(Push(zombie.session, 0, 0)) == Rejoin(zombie.session)
    assert bench.state.version == 0
    assert bench.state.totals.evicted == 1
    bench.answer(Push(other.session, 0, 0))
    assert bench.state.version == 1


def test_requeue_leaves_the_step_open(benches: list[Bench]) -> None:
    bench = Bench(BoundedStaleness(0, "requeue"))
    benches.append(bench)
    session = bench.join().session
    bench.ask(Push(session, 0, 0, 0))
    assert bench.answer(Push(session, 1, 0, 1)) == Ack(
        session, 1, "requeue", 1, -1, None, need=1, patience=0
    )
    assert bench.answer(Push(session, 1, 1, 2)).outcome == "applied"
    totals = bench.state.totals
    assert (totals.requeued, totals.rejected, totals.rejected_tau) == (1, 0, 1)


def test_rejected_staleness_is_summed(benches: list[Bench]) -> None:
    bench = Bench(BoundedStaleness(1))
    benches.append(bench)
    session = bench.join().session
    for step in range(2):
        bench.ask(Push(session, step, step, step))
    assert bench.answer(Push(session, 2, 0, 2)).outcome == "rejected"
    assert bench.state.totals.rejected_tau == 2
    assert bench.state.version == 2


def test_scale_reaches_the_action(benches: list[Bench]) -> None:
    bench = Bench(BoundedStaleness(0, "scale"))
    benches.append(bench)
    session = bench.join().session
    bench.ask(Push(session, 0, 0, 0))
    (apply,) = bench.state.receive(b"peer", Push(session, 1, 0, 1), 0.0)
    assert isinstance(apply, Apply)
    assert (apply.key, apply.tau, apply.weight) == ((0, 0, 1), 1, 0.5)
    bench.state.applied(apply)


@pytest.mark.parametrize("push", [Push(1, 0, 1), Push(1, 0, -1), Push(1, -1, 0)])
def test_impossible_push_is_refused_and_changes_nothing(bench: Bench, push: Push) -> None:
    bench.join()
    assert isinstance(bench.answer(push), Refused)
    assert bench.state.totals.refused == 1
    assert bench.state.version == 0


def test_each_apply_is_reported_once(bench: Bench) -> None:
    session = bench.join().session
    (apply,) = bench.state.receive(b"peer", Push(session, 0, 0), 0.0)
    with pytest.raises(LocalProtocolError, match="not been reported"):
        bench.state.receive(b"peer", Heartbeat(session), 0.0)
    bench.state.applied(apply)
    with pytest.raises(LocalProtocolError, match="was not being applied"):
        bench.state.applied(apply)


def test_garbled_update_costs_its_sender_the_session(bench: Bench) -> None:
    session = bench.join().session
    (apply,) = bench.state.receive(b"peer", Push(session, 0, 0), 0.0)
    assert bench.state.garbled(apply, "cut off") == [Send(b"peer", Refused("cut off"))]
    assert len(bench.state.sessions) == bench.state.version == 0
    assert bench.report().fatal is None
    bench.answer(Push(bench.join(attempt=2).session, 0, 0))
    assert bench.state.version == 1


def test_fatal_update_stops_the_epoch(bench: Bench) -> None:
    first, second = bench.join(0), bench.join(1)
    (apply,) = bench.state.receive(b"0/1", Push(first.session, 0, 0), 0.0)
    stops = bench.state.misfit(apply, "update", "NaN", "Traceback")
    assert [(a.peer, a.message.session) for a in stops] == [
        (b"0/1", first.session),
        (b"1/1", second.session),
    ]
    assert "update failed on partition 0: NaN" in stops[0].message.reason
    assert bench.answer(Push(second.session, 0, 0)) == Rejoin(second.session)
    assert bench.answer(Hello("run", 0, 1, 2, "w")) == Stop(0, "update failed: NaN")
    report = bench.report()
    assert report.fatal is not None
    assert report.fatal["what"] == "update"
    assert report.missing == [0, 1, 2]
    assert bench.state.version == 0


# ---- the end of a partition ------------------------------------------------------------


def test_finish_completes_a_partition(bench: Bench) -> None:
    session = bench.join().session
    bench.ask(Push(session, 0, 0))
    assert bench.answer(Finish(session, 1)) == Finished(session, True, 1)
    assert bench.answer(Finish(session, 1)) == Rejoin(session)
    assert bench.report().missing == [1, 2]
    assert bench.join(attempt=2).complete
    assert len(bench.state.sessions) == 0  # there is nothing left to do for it


def test_the_times_of_an_end_count_once(bench: Bench) -> None:
    session = bench.join().session
    finish = Finish(session, 0, wait_ack_s=0.5, other_s=2.0, travel_s=0.25)
    bench.ask(finish)
    bench.ask(finish)
    totals = bench.state.totals
    assert (totals.wait_ack_s, totals.other_s, totals.travel_s) == (0.5, 2.0, 0.25)


def test_finish_with_a_hole_says_where(bench: Bench) -> None:
    session = bench.join().session
    bench.ask(Push(session, 1, 0))
    assert bench.answer(Finish(session, 2)) == Finished(session, False, 0)
    assert bench.report().missing == [0, 1, 2]
    assert not bench.join(attempt=2).complete


def test_speculative_copies_are_told_at_once(bench: Bench) -> None:
    first, copy, other = bench.join(0), bench.join(0, attempt=2), bench.join(1)
    bench.ask(Push(first.session, 0, 0))
    assert bench.ask(Finish(first.session, 1)) == [
        Send(b"peer", Finished(first.session, True, 1)),
        Send(b"0/2", Finished(copy.session, True, 1)),
    ]
    assert [s.number for s in bench.state.sessions] == [other.session]
    assert bench.answer(Push(copy.session, 1, 0)) == Rejoin(copy.session)
    assert bench.state.version == 1


def test_fail_is_kept_for_the_driver(bench: Bench) -> None:
    for attempt in range(MAX_FAILURES + 1):
        session = bench.join(2, attempt).session
        fail = Fail(session, 4, "gradient", "ValueError: no", "Traceback")
        assert bench.answer(fail) == Pong(session, None)
        assert bench.answer(fail) == Rejoin(session)
    assert bench.state.totals.failed == MAX_FAILURES + 1
    report = bench.report()
    assert len(report.failures) == MAX_FAILURES
    assert report.fatal is None
    assert report.failures[1] == {
        "what": "gradient",
        "partition": 2,
        "step": 4,
        "attempt": 1,
        "worker": "w",
        "error": "ValueError: no",
        "traceback": "Traceback",
    }


# ---- limits ----------------------------------------------------------------------------


@pytest.fixture
def gated(benches: list[Bench]) -> Bench:
    benches.append(Bench(StaleSynchronous(0)))
    return benches[0]


def test_the_slowest_moves_the_limits(gated: Bench) -> None:
    fast, slow = gated.join(0), gated.join(1)
    assert (fast.limit, slow.limit) == (0, 0)
    assert gated.answer(Push(fast.session, 0, 0, 0)).limit == 0
    assert gated.ask(Push(slow.session, 0, 0, 0), b"1/1") == [
        Send(b"1/1", Ack(slow.session, 0, "applied", 2, -1, 1)),
        Send(b"peer", Go(fast.session, 1)),
    ]
    assert gated.answer(Heartbeat(fast.session)) == Pong(fast.session, 1)  # if the Go was lost


def test_a_joiner_starts_at_the_slowest_clock(gated: Bench) -> None:
    first = gated.join(0)
    for clock in range(4):
        gated.ask(Push(first.session, clock, 0, clock))
    joiner = gated.join(1)
    assert (joiner.clock, joiner.limit) == (4, 4)
    assert gated.state.slowest() == 4


def test_a_worker_comes_back_with_its_clock(gated: Bench) -> None:
    """Or, after everybody was evicted, all would start ahead of their limits."""
    gated.join(0)
    gated.now += LEASE_S + 1
    gated.state.tick(gated.now)
    back = gated.join(0, clock=7)
    assert (back.clock, back.limit) == (7, 7)


@pytest.mark.parametrize("how", ["evicted", "failed", "finished", "stopped by its copy"])
def test_who_is_gone_holds_nobody_back(gated: Bench, how: str) -> None:
    slow, fast = gated.join(0), gated.join(1)
    gated.ask(Push(fast.session, 0, 0, 0), b"1/1")
    if how == "evicted":
        gated.now += LEASE_S / 2
        gated.ask(Heartbeat(fast.session), b"1/1")
        gated.now += LEASE_S / 2 + 0.1
        actions = gated.state.tick(gated.now)
    elif how == "failed":
        actions = gated.ask(Fail(slow.session, 0, "gradient", "no", ""))
    elif how == "finished":
        actions = gated.ask(Finish(slow.session, 0))
    else:
        copy = gated.join(0, attempt=2)
        actions = gated.ask(Finish(copy.session, 0))
    assert Send(b"1/1", Go(fast.session, 1)) in actions


def test_epochs_do_not_hold_each_other_back(gated: Bench) -> None:
    fast = gated.join(0)
    gated.ask(Push(fast.session, 0, 0, 0))
    gated.epoch = gated.begin()
    assert gated.join(0).limit == 0
    assert gated.answer(Heartbeat(fast.session)) == Pong(fast.session, 1)


# ---- the driver --------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [0, -1])
def test_an_epoch_has_partitions(bench: Bench, partitions: int) -> None:
    assert isinstance(bench.answer(Begin(partitions), DRIVER), Refused)
    assert not bench.state.ledger.is_open(1)


def test_worker_keys_are_admitted_and_dismissed(bench: Bench) -> None:
    admit, begun = bench.ask(Begin(1, "key"), DRIVER)
    assert admit == Admit("key")
    first = begun.message.epoch
    second = bench.begin(1, "key")
    assert [type(a) for a in bench.ask(End("run", first), DRIVER)] == [Send]

    bench.now += 2 * LEASE_S
    assert dismissed(bench) == []  # an open epoch uses the key
    bench.ask(Status("run", second), DRIVER)
    assert [type(a) for a in bench.ask(End("run", second), DRIVER)] == [Send]
    bench.now += LEASE_S
    assert dismissed(bench) == []  # a task that starts late can connect, and hears Stop
    bench.now += 0.1
    assert dismissed(bench) == ["key"]
    assert dismissed(bench) == []
    assert [type(a) for a in bench.ask(End("run", second), DRIVER)] == [Send]


def test_the_key_of_an_epoch_just_closed_is_kept(bench: Bench) -> None:
    first = bench.begin(1, "key")
    bench.ask(End("run", first), DRIVER)
    bench.now += LEASE_S
    second = bench.begin(1, "key")
    other = bench.begin(1, "other")
    bench.ask(End("run", second), DRIVER)
    bench.now += LEASE_S
    assert dismissed(bench) == []
    bench.now += 0.1
    assert dismissed(bench) == ["key"]
    bench.ask(End("run", other), DRIVER)
    assert dismissed(bench) == ["other"]


def test_epochs_without_a_key_have_none_to_withdraw(bench: Bench) -> None:
    assert [type(a) for a in bench.ask(Begin(1), DRIVER)] == [Send]
    bench.ask(End("run", bench.epoch), DRIVER)
    bench.now += 2 * LEASE_S
    assert dismissed(bench) == []


def dismissed(bench: Bench) -> list[str]:
    """Let time pass and return the keys that are withdrawn."""
    return [a.key for a in bench.state.tick(bench.now) if isinstance(a, Dismiss)]


def test_end_stops_workers_and_refuses_late_updates(bench: Bench) -> None:
    session = bench.join().session
    stop, answer = bench.ask(End("run", 0, "enough"), DRIVER)
    assert stop == Send(b"0/1", Stop(session, "enough"))
    assert answer.message.missing == [0, 1, 2]
    assert bench.answer(Push(session, 0, 0)) == Rejoin(session)
    assert isinstance(bench.answer(Hello("run", 0, 0, 1, "w")), Stop)
    assert bench.state.version == 0
    again = bench.answer(End("run", 0), DRIVER)  # the first answer was lost
    assert (again.missing, again.fatal) == ([0, 1, 2], None)


def test_an_unknown_epoch_is_not_complete(bench: Bench) -> None:
    """A driver whose master was restarted must not take the empty list for the end."""
    report = bench.answer(Status("run", 7), DRIVER)
    assert report.missing == []
    assert report.fatal is not None
    assert report.fatal["error"] == "run run has no epoch 7"


def test_silent_driver_loses_its_epoch(bench: Bench) -> None:
    for _ in range(3):
        bench.now += DRIVER_LEASES * LEASE_S
        bench.state.tick(bench.now)
        assert bench.report().fatal is None
    session = bench.join().session
    for _ in range(9):
        bench.now += LEASE_S / 2
        bench.ask(Heartbeat(session))
        actions = bench.state.tick(bench.now)
    assert actions == [Send(b"peer", Stop(session, "the driver has been silent for 32 s"))]
    report = bench.report()
    assert report.fatal is not None
    assert report.fatal["what"] == "driver"
    assert report.missing == [0, 1, 2]


def test_report_counts(bench: Bench) -> None:
    bench.join(0)
    session = bench.join(1).session
    bench.ask(Push(session, 0, 0, examples=3, metrics={"loss": 2.0}))
    bench.ask(Push(session, 1, 0, examples=4, metrics={"loss": 1.0}))
    report = bench.report()
    assert (report.version, report.published, report.workers) == (2, -1, 2)
    assert report.staleness == [[0, 1], [1, 1]]
    assert report.metrics == {"loss": [3.0, 2]}
    assert (report.totals["applied"], report.totals["examples"]) == (2, 7)


# ---- versions ------------------------------------------------------------------------------


def test_pull_publishes_only_if_it_must(benches: list[Bench]) -> None:
    bench = Bench(every=3)
    benches.append(bench)
    session = bench.join().session

    def pull(want: int, session: int = session, start: int = -1) -> list[Action]:
        asked = Pull(session, -1, want, start=start)
        *actions, answer = bench.ask(asked)
        assert answer == SendSnapshot(b"peer", asked)
        return actions

    assert pull(0) == pull(0, start=9) == [Publish()]
    bench.state.was_published(0.0, 0.0)
    assert pull(0) == []
    bench.ask(Push(session, 0, 0))
    assert bench.state.tick(0.0) == []
    assert pull(0) == []
    assert pull(1) == [Publish()]
    assert pull(1, session=0) == pull(1, start=0) == [Publish()]
    assert pull(1, start=9) == []  # a further piece of what is published
    bench.state.was_published(0.0, 0.0)
    assert pull(1) == []
    assert pull(99) == []
    assert bench.ask(Pull(77, -1)) == [Send(b"peer", Rejoin(77))]


def test_tick_publishes_when_it_is_due(benches: list[Bench]) -> None:
    bench = Bench(every=2)
    benches.append(bench)
    session = bench.join().session
    bench.ask(Push(session, 0, 0))
    assert bench.state.tick(0.0) == []
    bench.ask(Push(session, 1, 0))
    assert bench.state.tick(0.0) == [Publish()]
    bench.state.was_published(0.0, 0.0)
    assert bench.state.published == 2
    assert bench.state.tick(0.0) == []


def test_lazy_pull_gets_the_newest(benches: list[Bench]) -> None:
    bench = Bench(StaleSynchronous(1, "lazy"), every=100)
    benches.append(bench)
    session = bench.join().session
    bench.state.was_published(0.0, 0.0)
    bench.ask(Push(session, 0, 0))
    pull = Pull(session, 0, 0)
    assert bench.ask(pull) == [Publish(), SendSnapshot(b"peer", pull)]


@pytest.mark.parametrize("count", [1, 3])
def test_a_round_goes_by_the_workers_that_are_here(benches: list[Bench], count: int) -> None:
    bench = Bench(every=None)
    benches.append(bench)
    sessions = [bench.join(partition).session for partition in range(count)]
    bench.state.was_published(0.0, 1.0)
    for partition, session in enumerate(sessions):
        assert not bench.state.publish_due(10.0)
        bench.ask(Push(session, 0, 0), f"{partition}/1".encode())
    assert bench.state.publish_due(10.0)


def test_what_cannot_be_applied_as_it_is_is_sent_back(benches: list[Bench]) -> None:
    bench = Bench(Asynchronous())
    benches.append(bench)
    session = bench.join().session
    bench.ask(Push(session, 0, 0, 0))
    (apply,) = bench.state.receive(b"peer", Push(session, 1, 0, 1), 0.0)
    assert isinstance(apply, Apply)
    (send,) = bench.state.sent_back(apply)
    assert isinstance(send, Send)
    assert send.message == Ack(session, 1, "requeue", 1, -1, None, need=1)
    totals = bench.state.totals
    assert (totals.requeued, totals.rejected_tau, totals.applied) == (1, 1, 1)
    assert bench.answer(Push(session, 1, 1, 2)).outcome == "applied"
