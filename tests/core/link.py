"""A master and its workers in one process: the real protocol states, pretended I/O.

`Link` holds one `MasterState` and any number of `Worker`s. Messages wait as `Letter`s
in `Link.letters` until somebody delivers, drops or duplicates them, in any order, and
time passes only when told to. `Link` plays the master's driver (performs actions,
"descends", publishes), `Worker` the worker's. Nothing here is random: tests choose.

What must hold at every instant is asserted where it happens: a key is applied once
and within the policy's bound, a worker holds and computes on published versions only
and keeps each update until it is answered, nobody runs further ahead than SSP allows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from zmqdist.core import actions as act
from zmqdist.core import worker_actions as wrk
from zmqdist.core.ledger import Key
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Begin, Begun, End, Message, Push, Report, Status, Version
from zmqdist.core.pacing import Pacing
from zmqdist.core.staleness import Policy
from zmqdist.core.worker_state import OVER, Phase, WorkerState
from zmqdist.staleness import BoundedStaleness

DRIVER = b"driver"
LEASE_S = 8.0


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
    replica: int = -1
    started: list[tuple[int, int]] = field(default_factory=list)
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
        self.computing = Push(0, step, self.state.base, clock, examples=1, empty=empty)
        return True

    def receive(self, message: Message) -> None:
        """Hand a message to the state and perform what it asks for."""
        held = self.state.version
        for action in self.state.receive(message, self.link.now):
            if isinstance(action, wrk.Load):
                assert isinstance(message, Version)
                assert message.base <= held < message.version == action.version
                assert message.version in self.link.published
                self.load(message)
            else:
                self.perform([action])

    def load(self, message: Version) -> None:
        """Take a version into the replica."""
        self.replica = message.version

    def check_read(self) -> None:
        """What is read into the model is what `base` says."""
        assert self.state.base == self.replica

    def check(self) -> None:
        """The state knows what the replica holds."""
        assert self.replica == self.state.version

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
        self.master = MasterState("run", policy, schema={}, lease_s=lease_s, pacing=pacing)
        self.partitions, self.steps = partitions, steps
        self.max_in_flight, self.publish_s = max_in_flight, publish_s
        self.now = 0.0
        self.letters: list[Letter] = []
        self.workers: list[Worker] = []
        self.published: dict[int, int] = {}  # version -> clock
        self.applied: list[act.Apply] = []
        self.waiting: list[Key] = []
        self.keys: set[Key] = set()
        self.admitted: set[str] = set()
        self.sent_to_driver: list[Message] = []
        self.epoch = -1
        self._attempts = 0
        self.begin()

    # ---- the driver ---------------------------------------------------------------------

    def ask(self, message: Message) -> Message:
        """Send a driver's message past the letters and return the answer."""
        self._perform(self.master.receive(DRIVER, message, self.now))
        return self.sent_to_driver.pop()

    def begin(self, worker_key: str = "") -> None:
        """Open an epoch with one worker per partition."""
        begun = self.ask(Begin(self.partitions, worker_key))
        assert isinstance(begun, Begun)
        self.epoch = begun.epoch
        for partition in range(self.partitions):
            self.attempt(partition)

    def end(self) -> Report:
        """Close the epoch."""
        report = self.ask(End(self.master.run, self.epoch))
        assert isinstance(report, Report)
        return report

    def status(self) -> Report:
        """Ask how the epoch stands."""
        report = self.ask(Status(self.master.run, self.epoch))
        assert isinstance(report, Report)
        return report

    # ---- workers --------------------------------------------------------------------------

    def attempt(self, partition: int) -> Worker:
        """Start one more attempt at a partition, beside those that run."""
        self._attempts += 1
        worker = self.new_worker(partition, self._attempts)
        self.workers.append(worker)
        worker.perform(worker.state.tick(self.now))
        return worker

    def new_worker(self, partition: int, attempt: int) -> Worker:
        """Return the worker of one attempt."""
        return Worker(self, self.epoch, partition, attempt, self.max_in_flight)

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
            missing = self.status().missing
            if not missing:
                return
            here = {w.partition for w in self.workers if w.epoch == self.epoch and not w.over}
            for partition in sorted(set(missing) - here):
                self.attempt(partition)
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
                    self.master.flushed(action)
                case act.Publish():
                    self._publish()
                case act.SendSnapshot():
                    self._send(action.peer, self.answer(action.have))
                case act.Admit():
                    self.admitted.add(action.key)
                case act.Dismiss():
                    self.admitted.remove(action.key)

    def _send(self, peer: bytes, message: Message) -> None:
        if peer == DRIVER:
            self.sent_to_driver.append(message)
        else:
            worker = next(w for w in self.workers if w.peer == peer)
            self.letters.append(Letter(worker, message, up=False))

    def _apply(self, action: act.Apply) -> None:
        assert action.key not in self.keys, f"{action.key} is applied twice"
        assert action.tau == self.master.version - action.push.base >= 0
        policy = self.master.policy
        if isinstance(policy, BoundedStaleness) and policy.on_stale != "scale":
            assert action.tau <= policy.max_staleness
        self.keys.add(action.key)
        if policy.buffers:
            self.waiting.append(action.key)
            self._perform(self.master.buffered(action, self.now))
        else:
            self.applied.append(action)
            self._perform(self.master.applied(action))

    def answer(self, have: int) -> Version:
        """Return the answer to a pull."""
        return self._version(min(have, self.master.published))

    def _version(self, base: int) -> Version:
        return Version(self.master.run, base, self.master.published, self.master.slowest())

    def _publish(self) -> None:
        base = self.master.published
        self.published[self.master.version] = self.master.slowest()
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
        assert len(self.applied) + len(self.waiting) == len(self.keys)
        assert self.master.staleness == Counter(action.tau for action in self.applied)
        for worker in self.workers:
            worker.check()
            assert set(worker.state.unacknowledged) <= worker.kept
            assert len(worker.state.unacknowledged) <= worker.max_in_flight

    def check_complete(self) -> None:
        """Each step of the epoch was settled once, and applied if it had to be."""
        assert self.status().missing == []
        self.pass_time(LEASE_S)
        assert not self.waiting, "the last updates were never merged"
        for partition in range(self.partitions):
            standing = self.master.ledger.standing(self.epoch, partition)
            assert standing is not None
            assert standing.next == standing.length == self.steps
            empty = {step for step in range(self.steps) if (partition + step) % 5 == 4}
            assert standing.skipped == empty
            applied = {k.step for k in self.keys if k[:2] == (self.epoch, partition)}
            assert applied | empty | standing.rejected == set(range(self.steps))
            assert not applied & standing.rejected
            assert self.master.policy.rejects or not standing.rejected


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
