"""A master that is started again: what a checkpoint keeps, and what its workers make of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.link import Link
from zmqdist.core.actions import Apply, Note, Save, Send
from zmqdist.core.lineage import Lineage, Point
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import (
    Ack,
    Begin,
    Begun,
    End,
    Finish,
    Hello,
    Leave,
    Message,
    Pull,
    Push,
    Refused,
    Report,
    Status,
    Stop,
    Version,
    Welcome,
)
from zmqdist.core.parts import NEWEST
from zmqdist.core.plans import MAX_PROGRAMS
from zmqdist.core.saving import Saving
from zmqdist.core.sessions import NUMBER_BITS
from zmqdist.core.staleness import Policy
from zmqdist.core.worker_actions import Load, Renew, SendToMaster, SendUpdate, Subscribe
from zmqdist.core.worker_state import Phase, WorkerState
from zmqdist.staleness import Asynchronous, SoftSync, StaleSynchronous

DRIVER = b"driver"

# ---- staleness across restarts ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("starts", "version", "base", "tau"),
    [
        ([0], 7, Point(0, 5), 2),
        ([0], 7, Point(0, 7), 0),
        ([0], 7, Point(0, 8), None),
        ([0], 7, Point(0, -1), None),
        ([0], 7, Point(1, 3), None),
        ([0], 7, Point(-1, 3), None),
        ([0, 5], 7, Point(0, 4), 3),  # what both have
        ([0, 5], 7, Point(0, 9), 2 + 4),  # 4 were lost, 2 are new
        ([0, 5], 5, Point(0, 9), 4),
        ([0, 5], 7, Point(1, 8), None),
        ([0, 5, 3], 4, Point(1, 6), 1 + 3),
        ([0, 5, 3], 4, Point(0, 4), 1 + 1),
        ([0, 3, 5], 6, Point(0, 4), 3 + 1),  # the second restart kept what the first began
    ],
)
def test_staleness_counts_what_two_models_differ_in(
    starts: list[int], version: int, base: Point, tau: int | None
) -> None:
    assert Lineage(starts).distance(version, base) == tau


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1)), min_size=1, max_size=6))
def test_staleness_is_the_distance_in_the_tree_of_versions(lives: list[tuple[int, float]]) -> None:
    """Each life applies some updates and the next starts from some version of it."""
    made, model, starts, histories = 0, [], [], {}
    for count, kept in lives:
        model = model[: round(kept * len(model))]
        starts.append(len(model))
        for extra in range(count + 1):
            if extra:
                made += 1
                model = [*model, made]
            histories[Point(len(starts) - 1, len(model))] = model
    lineage = Lineage(starts)
    for base, history in histories.items():
        assert lineage.distance(len(model), base) == len({*history} ^ {*model})


# ---- what is kept -----------------------------------------------------------------------------


class Drive:
    """A driver and a master without workers' networks."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Asynchronous()
        self.state = self.master([0])
        self.journal: object = None

    def master(self, starts: list[int]) -> MasterState:
        lineage = Lineage(starts)
        return MasterState("run", self.policy, schema={}, lineage=lineage, saving=Saving(60.0))

    def ask(self, message: Message, peer: bytes = DRIVER) -> Message:
        actions = self.state.receive(peer, message, 0.0)
        while (apply := next((a for a in actions if isinstance(a, Apply)), None)) is not None:
            done = self.state.buffered(apply, 0.0) if self.policy.buffers else None
            actions = done or self.state.applied(apply)
        if Note() in actions:
            self.journal = json.loads(json.dumps(self.state.epochs.journal()))
        sent = [action for action in actions if isinstance(action, Send)]
        return sent[-1].message

    def begin(self, train: int = 0, number: int = 0, **fields: object) -> Begun:
        values = {"partitions": 2, "worker_key": "key", "program": "p", **fields}
        begun = self.ask(Begin(train=train, number=number, **values))
        assert isinstance(begun, Begun)
        return begun

    def push(self, epoch: int, partition: int, step: int, attempt: int = 1) -> Message:
        peer = f"{epoch}/{partition}".encode()
        welcome = self.ask(Hello("run", epoch, partition, attempt, "w"), peer)
        assert isinstance(welcome, Welcome)
        return self.ask(Push(welcome.session, step, 0, examples=3, metrics={"loss": 2.0}), peer)

    def copy(self) -> object:
        return json.loads(json.dumps(self.state.state()))

    def restart(self, saved: object, **policy: Policy) -> None:
        """Start again from a copy and the newest journal."""
        self.policy = policy.get("policy", self.policy)
        version = saved["version"]  # type: ignore[index]
        self.state = self.master([*self.state.lineage.starts, version])
        self.state.load_state(saved, 1.0)  # type: ignore[arg-type]
        self.state.epochs.learn(self.journal, 1.0)  # type: ignore[arg-type]


def test_what_is_kept_comes_back() -> None:
    drive = Drive()
    epoch = drive.begin().epoch
    drive.push(epoch, 0, 0)
    drive.push(epoch, 1, 2)
    saved = drive.copy()
    before = drive.state.report(epoch)
    drive.push(epoch, 0, 1)
    drive.restart(saved)
    assert replace(drive.state.report(epoch), incarnation=0, workers=2, changes=before.changes) == (
        before
    )
    assert drive.copy() == saved
    assert drive.state.version == 2
    standing = drive.state.ledger.standing(epoch, 1)
    assert standing is not None
    assert (standing.next, standing.ahead) == (0, {2})
    assert drive.state.epochs.worker_keys() == ["key"]
    drive.push(epoch, 0, 1)
    assert drive.state.version == 3


def join(drive: Drive, epoch: int, partition: int, attempt: int = 1) -> Welcome:
    welcome = drive.ask(Hello("run", epoch, partition, attempt, "w"), b"%d" % partition)
    assert isinstance(welcome, Welcome)
    return welcome


def welcomed(drive: Drive, epoch: int, partition: int, attempt: int = 1) -> float:
    """Return the `passes` that an attempt is told."""
    return join(drive, epoch, partition, attempt).passes


def complete(drive: Drive, epoch: int, partition: int) -> None:
    session = join(drive, epoch, partition).session
    drive.ask(Push(session, 0, 0), b"%d" % partition)
    assert drive.ask(Finish(session, 1), b"%d" % partition).kind == "finished"


@pytest.fixture
def forgetful() -> tuple[Drive, int]:
    """A master that told an attempt at partition 0 of half a pass, and lost that."""
    drive = Drive()
    epoch = drive.begin(partitions=2).epoch
    saved = drive.copy()
    complete(drive, epoch, 1)
    assert welcomed(drive, epoch, 0) == 0.5
    drive.restart(saved)
    return drive, epoch


def test_all_attempts_are_told_what_was_complete_before_the_first() -> None:
    drive = Drive()
    first = drive.begin(partitions=4).epoch
    assert welcomed(drive, first, 0) == 0.0
    complete(drive, first, 1)
    second = drive.begin(partitions=4, number=1).epoch
    assert welcomed(drive, first, 2) == 0.25
    complete(drive, second, 0)
    complete(drive, second, 1)
    assert welcomed(drive, second, 3) == 1.5
    drive.restart(drive.copy())
    complete(drive, first, 3)
    complete(drive, second, 2)
    assert [welcomed(drive, first, p, attempt=2) for p in (0, 2)] == [0.0, 0.25]
    assert welcomed(drive, second, 3, attempt=2) == 1.5
    drive.begin(train=1)
    assert welcomed(drive, drive.begin(train=1).epoch, 0) == 0.0


def test_a_lost_answer_is_given_back_by_who_had_it(forgetful: tuple[Drive, int]) -> None:
    drive, epoch = forgetful
    drive.ask(Hello("run", epoch, 0, 1, "w", passes=0.5), b"0/1")
    assert welcomed(drive, epoch, 0, attempt=2) == 0.5


def test_who_cuts_a_partition_differently_does_not_go_on(forgetful: tuple[Drive, int]) -> None:
    drive, epoch = forgetful
    assert welcomed(drive, epoch, 0, attempt=2) == 0.0
    answer = drive.ask(Hello("run", epoch, 0, 1, "w", passes=0.5), b"0/1")
    assert answer == Stop(0, "another attempt cuts this partition differently")
    assert [session.attempt for session in drive.state.sessions] == [2]


@pytest.mark.parametrize("passes", [-1.0, 1.5, 1e300, float("nan")])
def test_what_cannot_have_been_said_is_not_given_back(passes: float) -> None:
    drive = Drive()
    epoch = drive.begin(partitions=2).epoch
    answer = drive.ask(Hello("run", epoch, 0, 1, "w", passes=passes), b"0/1")
    assert isinstance(answer, Stop)
    assert welcomed(drive, epoch, 0, attempt=2) == 0.0


def test_a_session_of_the_life_before_is_no_session() -> None:
    drive = Drive()
    epoch = drive.begin().epoch
    saved = drive.copy()
    drive.push(epoch, 0, 0)
    drive.restart(saved)
    drive.push(epoch, 1, 0)
    (session,) = drive.state.sessions
    assert session.number == (1 << NUMBER_BITS) + 1
    assert drive.ask(Push(1, 1, 0), b"late").kind == "rejoin"


def test_updates_in_the_buffer_come_back() -> None:
    drive = Drive(SoftSync(1))
    epoch = drive.begin(partitions=3).epoch
    for partition in range(3):
        drive.ask(Hello("run", epoch, partition, 1, "w"), b"%d" % partition)
    drive.push(epoch, 0, 0)
    drive.push(epoch, 1, 0)
    drive.restart(drive.copy())
    assert (drive.state.version, drive.state.totals.applied) == (0, 0)
    (flush,) = drive.state._buffer.flush(0, 100.0)
    assert [action.key[:] for action in flush.updates] == [(epoch, 0, 0), (epoch, 1, 0)]
    drive.state.flushed(flush)
    assert (drive.state.version, drive.state.totals.applied) == (1, 2)
    assert drive.state.totals.examples == 6
    assert drive.state.report(epoch).metrics == {"loss": [4.0, 2]}


def test_an_epoch_begun_after_the_checkpoint_is_open_and_empty() -> None:
    drive = Drive()
    first = drive.begin().epoch
    drive.push(first, 0, 0)
    saved = drive.copy()
    drive.ask(End("run", first))
    second = drive.begin(number=1).epoch
    drive.push(second, 0, 0)
    drive.restart(saved)
    for epoch, settled in ((first, 1), (second, 0)):
        standing = drive.state.ledger.standing(epoch, 0)
        assert standing is not None
        assert standing.next == settled
        assert drive.state.report(epoch).fatal is None
    assert drive.begin(number=1).epoch == second
    assert drive.begin(number=2).epoch == second + 1


def test_epochs_that_their_program_left_behind_are_closed() -> None:
    drive = Drive()
    first = drive.begin().epoch
    saved = drive.copy()
    drive.ask(End("run", first, over=True))
    second = drive.begin(train=1).epoch
    drive.restart(saved)
    assert [e for e in drive.state.epochs] == [second]
    assert isinstance(drive.ask(Hello("run", first, 0, 1, "w")), Stop)


# ---- what a driver goes on with ---------------------------------------------------------------


def test_to_begin_twice_is_to_begin_once() -> None:
    drive = Drive()
    assert drive.begin() == drive.begin()
    assert drive.begin(number=1).epoch == 1
    assert drive.begin(program="other").epoch == 2
    assert [drive.begin(program="").epoch for _ in range(2)] == [3, 4]


def test_who_resumes_goes_on_with_the_program_that_was_interrupted() -> None:
    drive = Drive()
    drive.begin(program="first")
    epoch = drive.begin(program="second").epoch
    drive.push(epoch, 0, 0)
    begun = drive.begin(program="third", resume=True, worker_key="new")
    assert (begun.program, begun.epoch) == ("second", epoch)
    assert begun.before["totals"]["applied"] == 0
    assert drive.state.epochs[epoch].worker_key == "new"
    assert drive.begin(program="fourth").epoch == epoch + 1  # without resume it is a new one


def test_who_resumes_after_the_end_begins_anew() -> None:
    drive = Drive()
    epoch = drive.begin().epoch
    drive.ask(Leave("run", "p"))
    drive.restart(drive.copy())
    begun = drive.begin(program="q", resume=True)
    assert (begun.program, begun.epoch) == ("q", epoch + 1)


def test_a_train_that_returned_is_over() -> None:
    drive = Drive()
    epoch = drive.begin().epoch
    drive.push(epoch, 0, 0)
    drive.ask(End("run", epoch, over=True))
    drive.restart(drive.copy())
    again = drive.begin(program="q", resume=True)
    assert (again.program, again.epoch) == ("p", -1)
    assert again.before["totals"]["applied"] == 0
    assert drive.begin(program="p", train=1).epoch == epoch + 1
    assert drive.begin(program="p", train=0).epoch == -1


def test_a_train_is_not_over_in_a_life_that_has_lost_of_it() -> None:
    """The driver has seen it complete, and the master was killed before it heard that."""
    drive = Drive()
    epoch = drive.begin().epoch
    saved = drive.copy()
    drive.push(epoch, 0, 0)
    drive.restart(saved)
    report = drive.ask(End("run", epoch, over=True, incarnation=0))
    assert isinstance(report, Report)
    assert report.incarnation == 1
    assert drive.begin().epoch == epoch
    assert drive.state.report(epoch).missing == [0, 1]
    drive.ask(End("run", epoch, over=True, incarnation=1))
    assert drive.begin().epoch == -1


def test_an_epoch_that_was_given_up_is_opened_again() -> None:
    drive = Drive()
    epoch = drive.begin().epoch
    drive.push(epoch, 0, 0)
    drive.ask(End("run", epoch, "GradientError"))
    assert drive.ask(Hello("run", epoch, 0, 2, "w")).kind == "stop"
    drive.restart(drive.copy())
    assert drive.begin(program="q", resume=True).epoch == epoch
    standing = drive.state.ledger.standing(epoch, 0)
    assert standing is not None
    assert standing.next == 1
    report = drive.ask(Status("run", epoch))
    assert isinstance(report, Report)
    assert (report.missing, report.fatal) == ([0, 1], None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"partitions": 3}, "begun with 2 partitions, batch_size=5, now the data comes as 3 part"),
        ({"steps": "batch_size=6"}, "as 2 partitions, batch_size=6; resume with the same data"),
    ],
)
def test_data_of_another_shape_is_refused(fields: dict[str, object], said: str) -> None:
    drive = Drive()
    drive.begin(steps="batch_size=5")
    values = {"partitions": 2, "steps": "batch_size=5", "program": "q", "resume": True, **fields}
    refused = drive.ask(Begin(**values))
    assert isinstance(refused, Refused)
    assert said in refused.reason


def test_programs_are_not_remembered_for_ever() -> None:
    drive = Drive()
    for number in range(MAX_PROGRAMS + 5):
        drive.begin(program=f"p{number}")
    assert len(drive.state.epochs.plans.state()) == MAX_PROGRAMS


# ---- when to write ------------------------------------------------------------------------------


def test_a_checkpoint_is_due_when_something_changed_and_time_passed() -> None:
    saving = Saving(60.0)
    saving.changes = 1
    assert saving.due(0.0)  # the first one at once
    saving.begin(0.0)
    saving.changes = 2
    assert not saving.due(100.0)  # one at a time
    saving.end()
    assert saving.saved == 1
    assert not saving.due(59.9)
    saving.want()
    assert saving.due(1.0)
    saving.begin(1.0)
    saving.end("no space left")
    assert (saving.saved, saving.trouble) == (1, "no space left")
    assert not saving.due(60.9)
    assert saving.due(61.0)
    saving.begin(61.0)
    saving.end()
    assert (saving.saved, saving.trouble) == (2, "")
    assert not saving.due(1000.0)  # nothing is new


def test_without_checkpoints_nothing_is_due() -> None:
    saving = Saving()
    saving.changes = 1
    saving.want()
    assert not saving.due(1e9)
    assert saving.saved is None


def test_the_end_of_a_train_is_written_at_once() -> None:
    drive = Drive()
    epoch = drive.begin().epoch
    assert drive.state.tick(0.0)[-1] == Save()
    drive.state.saving.begin(0.0)
    drive.state.saving.end()
    drive.push(epoch, 0, 0)
    assert Save() not in drive.state.tick(1.0)
    drive.ask(End("run", epoch, over=True))
    assert Save() in drive.state.tick(2.0)


# ---- workers that lived on ------------------------------------------------------------------

WELCOME = Welcome(1, 3, 5001, 0, [], False, 0, None, None, 8.0)
AGAIN = replace(WELCOME, session=(1 << NUMBER_BITS) + 1, incarnation=1, publish_port=6001)


def active(**options: object) -> WorkerState:
    state = WorkerState(run="run", epoch=0, partition=2, attempt=7, worker="w", **options)
    state.tick(0.0)
    state.receive(WELCOME, 0.0)
    state.receive(Version("run", -1, 3, 0), 0.0)
    return state


def held(state: WorkerState, part: int) -> Point:
    return state.parts.given(part, state.fresh.replica)


def test_a_worker_asks_a_restarted_master_for_everything() -> None:
    state = active()
    clock, _ = state.start()
    push = Push(1, 0, state.base.version, clock)
    state.push(push, 0.0)
    state.receive(Version("run", 3, 9, 0), 0.0)
    state.receive(replace(WELCOME, session=2), 0.0)  # nothing but a lost session
    assert state.version == 9
    assert state.receive(AGAIN, 1.0) == [
        SendUpdate(replace(push, session=AGAIN.session)),
        Renew(1),
        Subscribe(6001),
        SendToMaster(Pull(AGAIN.session, -1, 0, start=0)),
    ]
    assert not state.may_start()
    assert state.base == (0, 3)  # of what is in the model, and under way
    assert state.receive(Version("run", 3, 10, 0), 1.0) == []  # of the life before
    whole = Version("run", -1, 3, 0, incarnation=1)
    assert state.receive(whole, 1.0) == [Load(3)]
    assert state.may_start()
    assert state.start() == (1, True)
    assert state.base == (1, 3)


def test_a_broadcast_tells_of_the_restart() -> None:
    state = active()
    news = Version("run", 2, 3, 0, incarnation=1)
    assert state.receive(news, 5.0) == [SendToMaster(Hello("run", 0, 2, 7, "w", passes=0.0))]
    assert state.phase is Phase.JOINING
    assert state.receive(news, 5.0) == []
    assert state.receive(Version("run", 3, 4, 0), 5.0) == [Load(4)]  # late, of the life before


def test_lazy_reading_takes_no_model_of_the_life_before() -> None:
    state = active()
    state.receive(replace(WELCOME, session=2, lazy_slack=5), 0.0)
    assert state.start() == (0, True)
    assert state.start() == (1, False)
    state.receive(replace(AGAIN, lazy_slack=5), 0.0)
    state.receive(Version("run", -1, 3, 0, incarnation=1), 0.0)
    assert state.start() == (2, True)


def test_a_replica_of_the_life_before_is_asked_for_anew() -> None:
    state = WorkerState(run="run", epoch=0, partition=2, attempt=7, worker="w", have=Point(0, 8))
    state.tick(0.0)
    assert state.receive(AGAIN, 0.0)[-1] == SendToMaster(Pull(AGAIN.session, -1, 0, start=0))
    kept = WorkerState(run="run", epoch=0, partition=2, attempt=7, worker="w", have=Point(1, 8))
    kept.tick(0.0)
    assert kept.receive(AGAIN, 0.0)[-1] == SendToMaster(Pull(AGAIN.session, 8, 0))


def test_in_place_sends_first_and_asks_then() -> None:
    """The answer holds what was acknowledged before it, in this order only."""
    state = active(in_place=True, keep_bits=7)
    state.start()
    push = Push(1, 0, 3, 0)
    state.push(push, 0.0)
    state.ask(1, 0.0)
    assert state.receive(AGAIN, 1.0) == [
        SendUpdate(replace(push, session=AGAIN.session)),
        Renew(1),
        SendToMaster(Pull(AGAIN.session, -1, NEWEST)),
    ]
    assert not state.parts.pending(1)
    assert state.receive(Version("run", 3, 4, 0, 1), 1.0) == []  # of the life before
    assert held(state, 1) == (0, 3)  # until something of the new one is there
    state.receive(Ack(AGAIN.session, 0, "applied", 4, 3, None), 1.0)
    assert state.receive(Version("run", -1, 4, 0, incarnation=1), 1.0) == [Load(4)]
    assert held(state, 1) == (1, 4)


def test_two_restarts_before_an_answer() -> None:
    state = active(in_place=True)
    state.receive(AGAIN, 1.0)
    state.receive(replace(AGAIN, session=(2 << NUMBER_BITS) + 1, incarnation=2), 2.0)
    assert held(state, 1) == (0, 3)


# ---- all together -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Asynchronous(), StaleSynchronous(1), SoftSync(1, 1.0)])
def test_what_was_lost_is_run_again(policy: Policy) -> None:
    """No attempt fails: the workers go on, and the holes are filled by attempts after them."""
    link = Link(policy, partitions=2, steps=6)
    for _ in range(8):
        link.deliver_all()
        for worker in link.workers:
            worker.move()
    link.deliver_all()
    lost = len(link.keys)
    assert lost > 2
    link.restart()
    assert link.keys == set()
    first = [*link.workers]
    link.run()
    link.check()
    link.check_complete()
    assert all(worker.state.phase is not Phase.LOST for worker in first)
    assert len(link.workers) > len(first)
