"""A master and its workers in one process: the real protocol states, pretended I/O.

`Link` holds one `MasterState` and any number of `Worker`s. Messages wait as `Letter`s
in `Link.letters` until somebody delivers, drops or duplicates them, in any order, and
time passes only when told to. `Link` plays the master's driver (performs actions,
"descends", publishes, writes checkpoints), `Worker` the worker's. The model is the list
of the updates in it. The master may be killed and started again from its last
checkpoint. Nothing here is random: tests choose.

What must hold at every instant is asserted where it happens: a key is applied once, by
attempts that cut the partition alike, and within the policy's bound, a worker holds and
computes on published versions only and keeps each update until it is answered, nobody
runs further ahead than SSP allows.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from zmqdist.core import actions as act
from zmqdist.core import worker_actions as wrk
from zmqdist.core.ledger import Key
from zmqdist.core.lineage import Lineage, Point
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Begin, Begun, End, Message, Push, Report, Status, Version
from zmqdist.core.pacing import Pacing
from zmqdist.core.saving import Saving
from zmqdist.core.staleness import Policy
from zmqdist.core.worker_state import NOTHING, OVER, Phase, WorkerState
from zmqdist.staleness import BoundedStaleness

DRIVER = b"driver"
LEASE_S = 8.0
PIECES = 4
SAVE_EVERY_S = 2.0


@dataclass
class Letter:
    """A message under way, to the master or to a worker."""

    worker: Worker
    message: Message
    up: bool


@dataclass
class Worker:
    """One task attempt: the worker's driver, whose gradient takes one move."""

    link: Link
    epoch: int
    partition: int
    attempt: int
    max_in_flight: int
    peer: bytes = b""
    alive: bool = True
    awake: bool = True
    next_step: int = 0
    computing: Push | None = None
    kept: set[int] = field(default_factory=set)
    replica: list[Point] = field(default_factory=lambda: [NOTHING] * PIECES)
    started: list[tuple[int, int]] = field(default_factory=list)
    ended: bool = False
    finishing: bool = False
    subscribed: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        self.peer = f"{self.epoch}/{self.partition}/{self.attempt}".encode()
        self.state = WorkerState(
            run=self.link.master.run,
            epoch=self.epoch,
            partition=self.partition,
            attempt=self.attempt,
            worker=self.peer.decode(),
            max_in_flight=self.max_in_flight,
            shared=self.shared,
            now=self.link.now,
        )

    @property
    def over(self) -> bool:
        """Whether this attempt does nothing any more."""
        return not self.alive or self.state.phase in OVER

    def move(self) -> bool:
        """Do the next thing that the driver can do; False if it has to wait."""
        if self.over or not self.awake or self.state.phase is not Phase.ACTIVE:
            return False
        if self.computing is not None:
            push, self.computing = self.computing, None
            self.kept.add(push.step)
            self.perform(self.state.push(push, self.link.now))
            return True
        if (step := self._next()) is not None:
            return self._start(step)
        if not self.ended:
            return self._look_for_more()
        if not (self.state.unacknowledged or self.state.requeued or self.finishing):
            self.finishing = True
            self.perform(self.state.finish(self.link.steps, self.link.now))
            return True
        return False

    def _next(self) -> int | None:
        if self.state.requeued:
            return self.state.requeued[0]
        while self.next_step < self.link.steps and self.state.settled(self.next_step):
            self.next_step += 1
        return self.next_step if self.next_step < self.link.steps else None

    def _start(self, step: int) -> bool:
        if not self.state.may_start():
            self.perform(self.state.want(self.link.now))
            return False
        if self.state.requeued:
            self.state.requeued.remove(step)
        else:
            self.next_step += 1
        clock, read = self.state.start()
        if read:
            self.check_read()
        assert self.state.base in self.link.published
        self.link.check_gate(self, clock)
        self.started.append((clock, self.state.base))
        empty = (self.partition + step) % 5 == 4
        incarnation, base = self.state.base
        self.computing = Push(
            0, step, base, clock, examples=1, empty=empty, incarnation=incarnation
        )
        return True

    def _look_for_more(self) -> bool:
        """Ask the gradient for one more update, of which there is none."""
        if not self.state.may_start():
            self.perform(self.state.want(self.link.now))
            return False
        clock, _ = self.state.start()
        self.state.cancel()
        assert self.state.clock == clock
        self.ended = True
        return True

    def receive(self, message: Message) -> None:
        """Hand a message to the state and perform what it asks for."""
        held = self.state.fresh.replica
        for action in self.state.receive(message, self.link.now):
            if isinstance(action, wrk.Load):
                assert isinstance(message, Version)
                assert message.incarnation == held.incarnation
                assert held.version < message.version == action.version
                assert Point(message.incarnation, message.version) in self.link.published
                self.load(message, piece=action.piece)
            else:
                self.perform([action])

    def load(self, message: Version, *, piece: bool) -> None:
        """Take a version, or a piece of one, into the replica."""
        new = Point(message.incarnation, message.version)
        if message.start or message.end:
            self.replica[message.start] = new
            assert piece or self.replica == [new] * PIECES
        else:
            assert not piece
            if message.base >= 0:
                incarnations, versions = zip(*self.replica, strict=True)
                assert set(incarnations) == {message.incarnation}
                assert message.base <= min(versions) <= max(versions) <= message.version
            self.replica = [new] * PIECES

    def check_read(self) -> None:
        """What is read into the model is what `base` says."""
        assert self.replica == [self.state.base] * PIECES

    def check(self) -> None:
        """The state knows what the replica holds."""
        if self.state.version >= 0:
            assert self.replica == [self.state.fresh.replica] * PIECES

    def perform(self, actions: list[wrk.Action]) -> None:
        for action in actions:
            match action:
                case wrk.SendToMaster():
                    self.link.letters.append(Letter(self, action.message, up=True))
                case wrk.SendUpdate():
                    assert action.push.step in self.kept, "the update was forgotten too early"
                    self.link.letters.append(Letter(self, action.push, up=True))
                case wrk.Forget():
                    self.kept.discard(action.step)
                case wrk.Subscribe():
                    self.subscribed = True


class Link:
    """One master, its workers, and the letters between them.

    Parameters
    ----------
    policy : Policy
    partitions, steps : int
        Size of each epoch: partitions, and steps in each of them.
    max_in_flight, pacing, lease_s
        As in `WorkerState` and `MasterState`.
    publish_s : float
        What a publication costs, for adaptive pacing.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        partitions: int = 3,
        steps: int = 5,
        max_in_flight: int = 2,
        pacing: Pacing | None = None,
        lease_s: float = LEASE_S,
        publish_s: float = 0.01,
    ) -> None:
        self.policy, self.pacing, self.lease_s = policy, pacing, lease_s
        self.partitions, self.steps = partitions, steps
        self.max_in_flight, self.publish_s = max_in_flight, publish_s
        self.now = 0.0
        self.letters: list[Letter] = []
        self.workers: list[Worker] = []
        self.published: dict[Point, tuple[int, ...]] = {}  # what is in it
        self.model: list[int] = []  # the updates, or flushes, each with a number of its own
        self.applied: list[act.Apply] = []
        self.waiting: list[Key] = []
        self.keys: set[Key] = set()
        self.cuts: dict[tuple[int, int], float | None] = {}  # what the sender was told
        self.admitted: set[str] = set()
        self.sent_to_driver: list[Message] = []
        self.master = self._master([0])
        self.journal = self.master.epochs.journal()
        self.saved = self._copy()
        self.writing: dict[str, Any] | None = None
        self.train, self.epochs, self.ended = -1, list[int](), set[int]()
        self._attempts = self._made = 0
        self._sender: Worker | None = None
        self.begin()

    def _master(self, starts: list[int]) -> MasterState:
        return MasterState(
            "run",
            self.policy,
            schema={},
            lease_s=self.lease_s,
            pacing=self.pacing,
            lineage=Lineage(starts),
            saving=Saving(SAVE_EVERY_S),
        )

    # ---- checkpoints ----------------------------------------------------------------------

    def _copy(self) -> dict[str, Any]:
        """Copy the master's state through JSON, and what the test knows of its model."""
        return {
            "state": json.loads(json.dumps(self.master.state())),
            "policy": copy.deepcopy(self.master.policy.state()),
            "model": [*self.model],
            "applied": [*self.applied],
            "waiting": [*self.waiting],
            "keys": {*self.keys},
            "cuts": {**self.cuts},
        }

    def written(self, trouble: str = "") -> None:
        """Let the checkpoint that is being written come to its end."""
        if self.writing is not None:
            self.saved = self.saved if trouble else self.writing
            self.writing = None
            self.master.saving.end(trouble)

    def restart(self) -> None:
        """Kill the master and start it again from its last checkpoint; letters survive."""
        saved, self.writing = self.saved, None
        starts = [*self.master.lineage.starts, saved["state"]["version"]]
        self.master = self._master(starts)
        self.master.load_state(json.loads(json.dumps(saved["state"])), self.now)
        self.master.policy.load_state(copy.deepcopy(saved["policy"]))
        self.master.epochs.learn(json.loads(json.dumps(self.journal)), self.now)
        self.admitted = set(self.master.epochs.worker_keys())
        self.model, self.applied = [*saved["model"]], [*saved["applied"]]
        self.waiting, self.keys = [*saved["waiting"]], {*saved["keys"]}
        self.cuts = {**saved["cuts"]}

    # ---- the driver ---------------------------------------------------------------------

    def ask(self, message: Message) -> Message:
        """Send a driver's message past the letters and return the answer."""
        self._perform(self.master.receive(DRIVER, message, self.now))
        return self.sent_to_driver.pop()

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return self.epochs[-1]

    def begin(self, worker_key: str = "") -> None:
        """Begin a `train()`: open an epoch with one worker per partition."""
        self.train, self.epochs, self.ended = self.train + 1, [], set()
        self.next_pass(worker_key)

    def next_pass(self, worker_key: str = "") -> None:
        """Open one more epoch of the same `train()`."""
        begin = Begin(self.partitions, worker_key, "program", self.train, len(self.epochs))
        begun = self.ask(begin)
        assert isinstance(begun, Begun)
        assert self.ask(begin) == begun, "a driver may ask again"
        self.epochs.append(begun.epoch)
        for partition in range(self.partitions):
            self.attempt(partition)

    def end(self, epoch: int | None = None, *, over: bool = False) -> Report:
        """Close an epoch."""
        epoch = self.epoch if epoch is None else epoch
        self.ended.add(epoch)
        incarnation = self.master.lineage.incarnation
        report = self.ask(End(self.master.run, epoch, over=over, incarnation=incarnation))
        assert isinstance(report, Report)
        return report

    def status(self, epoch: int | None = None) -> Report:
        """Ask how an epoch stands."""
        report = self.ask(Status(self.master.run, self.epoch if epoch is None else epoch))
        assert isinstance(report, Report)
        return report

    def missing(self) -> list[tuple[int, int]]:
        """Return the (epoch, partition) of this `train()` that are not complete."""
        return [(epoch, p) for epoch in self.epochs for p in self.status(epoch).missing]

    # ---- workers --------------------------------------------------------------------------

    def attempt(self, partition: int, epoch: int | None = None) -> Worker:
        """Start one more attempt at a partition, beside those that run."""
        self._attempts += 1
        epoch = self.epoch if epoch is None else epoch
        worker = self.new_worker(epoch, partition, self._attempts)
        self.workers.append(worker)
        worker.perform(worker.state.tick(self.now))
        return worker

    def new_worker(self, epoch: int, partition: int, attempt: int) -> Worker:
        """Return the worker of one attempt."""
        return Worker(self, epoch, partition, attempt, self.max_in_flight)

    def kill(self, worker: Worker) -> None:
        """End a process; what it has sent is still under way."""
        worker.alive = False

    # ---- letters and time --------------------------------------------------------------------

    def deliver(self, index: int = 0) -> None:
        """Deliver one letter; one to a sleeping worker goes on waiting."""
        letter = self.letters[index]
        if not letter.up and letter.worker.alive and not letter.worker.awake:
            return
        del self.letters[index]
        if letter.up:
            self._sender = letter.worker
            self._perform(self.master.receive(letter.worker.peer, letter.message, self.now))
            if self.master.publish_due(self.now):
                self._publish()
        elif letter.worker.alive:
            letter.worker.receive(letter.message)

    def deliver_all(self) -> None:
        """Deliver, in order, until only letters to sleeping workers wait."""
        while (index := next((i for i, a in enumerate(self.letters) if self._ready(a)), -1)) >= 0:
            self.deliver(index)

    def deliver_up(self) -> None:
        """Deliver what the master gets; the answers wait."""
        for letter in [letter for letter in self.letters if letter.up]:
            self.deliver(self.letters.index(letter))

    def _ready(self, letter: Letter) -> bool:
        return letter.up or letter.worker.awake or not letter.worker.alive

    def pass_time(self, seconds: float) -> None:
        """Let time pass for everybody; the driver shows that it lives."""
        self.now += seconds
        self.status()
        self._perform(self.master.tick(self.now))
        for worker in self.workers:
            if worker.awake and not worker.over:
                worker.perform(worker.state.tick(self.now))

    def run(self, *, rounds: int = 500) -> None:
        """Run without losses, retrying dead attempts as Spark does, until all is complete."""
        for worker in self.workers:
            worker.awake = True
        for _ in range(rounds):
            self.deliver_all()
            missing = self.missing()
            if not missing:
                return
            here = {(w.epoch, w.partition) for w in self.workers if not w.over}
            for epoch, partition in sorted(set(missing) - here):
                self.attempt(partition, epoch)
            if not any([worker.move() for worker in self.workers]) and not self.letters:
                self.pass_time(LEASE_S / 16)
        states = [(w.peer, vars(w.state)) for w in self.workers if not w.over]
        raise AssertionError(f"no end: {self.status()} {list(self.master.sessions)} {states}")

    # ---- the master's driver -------------------------------------------------------------------

    def _perform(self, actions: list[act.Action]) -> None:
        for action in actions:
            match action:
                case act.Send():
                    self._send(action.peer, action.message)
                case act.Apply():
                    self._apply(action)
                case act.Flush():
                    assert [a.key for a in action.updates] == self.waiting
                    self.waiting = []
                    self.applied += action.updates
                    self._descend()
                    self.master.flushed(action)
                case act.Publish():
                    self._publish()
                case act.SendSnapshot():
                    self._send(action.peer, self.answer(action.pull.have, action.pull.start))
                case act.Admit():
                    self.admitted.add(action.key)
                case act.Dismiss():
                    self.admitted.remove(action.key)
                case act.Note():
                    self.journal = self.master.epochs.journal()
                case act.Save():
                    assert self.writing is None
                    self.master.saving.begin(self.now)
                    self.writing = self._copy()

    def _send(self, peer: bytes, message: Message) -> None:
        if peer == DRIVER:
            self.sent_to_driver.append(message)
        else:
            worker = next(w for w in self.workers if w.peer == peer)
            self.letters.append(Letter(worker, message, up=False))

    def _apply(self, action: act.Apply) -> None:
        sender = self._sender
        assert sender is not None
        assert action.key[:2] == (sender.epoch, sender.partition), "applied for another"
        assert action.key not in self.keys, f"{action.key} is applied twice"
        base = self.published[Point(action.push.incarnation, action.push.base)]
        assert action.tau == len({*base} ^ {*self.model}), "tau is what the models differ in"
        policy = self.master.policy
        if isinstance(policy, BoundedStaleness) and policy.on_stale != "scale":
            assert action.tau <= policy.max_staleness
        self.keys.add(action.key)
        passes = sender.state.hello.passes
        assert self.cuts.setdefault(action.key[:2], passes) == passes, "cut in two ways"
        if policy.buffers:
            self.waiting.append(action.key)
            self._perform(self.master.buffered(action, self.now))
        else:
            self.applied.append(action)
            self._descend()
            self._perform(self.master.applied(action))

    def _descend(self) -> None:
        self._made += 1
        self.model.append(self._made)

    def answer(self, have: int, start: int = -1) -> Version:
        """Return the answer to a pull: a piece, unless the master would rather send it whole."""
        answer = self._version(min(have, self.master.published))
        if answer.base >= 0 or start < 0 or self.master.published % 5 == 4:
            return answer
        return replace(answer, start=start, end=(start + 1) % PIECES)

    def _version(self, base: int) -> Version:
        return Version(
            self.master.run,
            base,
            self.master.published,
            self.master.slowest(),
            incarnation=self.master.lineage.incarnation,
        )

    def _publish(self) -> None:
        base = self.master.published
        version = Point(self.master.lineage.incarnation, self.master.version)
        self.published[version] = tuple(self.model)
        self.master.was_published(self.now, self.now + self.publish_s)
        for worker in self.workers:
            if base >= 0 and worker.subscribed and not worker.over:
                self.letters.append(Letter(worker, self._version(base), up=False))

    # ---- what must hold ------------------------------------------------------------------------

    def check_gate(self, worker: Worker, clock: int) -> None:
        """A step starts within the horizon, as far as its worker's session is open."""
        number, sessions = worker.state.session, self.master.sessions
        limit = self.master.policy.limit(number, sessions.slowest(worker.epoch))
        if limit is not None and any(s.number == number for s in sessions):
            assert clock <= limit, f"{worker.peer!r} starts clock {clock}, limit {limit}"

    def check(self) -> None:
        """Check the books."""
        check_master(self.master)
        assert self.master.version == len(self.model)
        assert len(self.applied) + len(self.waiting) == len(self.keys)
        assert self.master.staleness == Counter(action.tau for action in self.applied)
        for worker in self.workers:
            worker.check()
            assert set(worker.state.unacknowledged) <= worker.kept
            assert len(worker.state.unacknowledged) <= worker.max_in_flight

    def check_complete(self) -> None:
        """Each step of each epoch was settled once, and applied if it had to be."""
        assert self.missing() == []
        self.pass_time(LEASE_S)
        assert not self.waiting, "the last updates were never merged"
        for epoch in self.epochs:
            for partition in range(self.partitions):
                self._check_partition(epoch, partition)

    def _check_partition(self, epoch: int, partition: int) -> None:
        empty = {step for step in range(self.steps) if (partition + step) % 5 == 4}
        applied = {k.step for k in self.keys if k[:2] == (epoch, partition)}
        assert not applied & empty
        may_reject = self.master.policy.rejects
        standing = self.master.ledger.standing(epoch, partition)
        if standing is None:  # the epoch is closed
            assert epoch in self.ended
            assert may_reject or applied | empty == set(range(self.steps))
            return
        assert standing.next == standing.length == self.steps
        assert standing.skipped == empty
        assert applied | empty | standing.rejected == set(range(self.steps))
        assert not applied & standing.rejected
        assert may_reject or not standing.rejected


def check_master(state: MasterState) -> None:
    """Check that the master's state does not contradict itself."""
    applied = sum(state.staleness.values())
    totals = state.totals
    assert totals.applied == applied
    waiting = totals.settled - totals.applied - totals.rejected - totals.skipped
    assert waiting >= 0 if state.policy.buffers else waiting == 0
    assert state.version == applied or (state.policy.buffers and state.version < applied)
    assert -1 <= state.published <= state.version
    state.ledger.check_invariants()
    for session in state.sessions:
        standing = state.ledger.standing(session.epoch, session.partition)
        assert standing is not None
        assert not standing.complete, f"{session} of a complete partition"
