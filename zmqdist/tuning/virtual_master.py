"""The simulated master: what `zmqdist.core.master_state` does, in virtual time.

Messages are served one at a time in the order of their arrival. So what becomes of an
update is decided when it arrives, although it is served later: nothing but the messages
before it can come between. The policy and the pacing are the very objects of a real run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from zmqdist.core.pacing import Pacing, per_round
from zmqdist.core.staleness import Arrival, Policy, Verdict
from zmqdist.tuning.agenda import Agenda, Call
from zmqdist.tuning.cluster import FREE, Cluster
from zmqdist.tuning.delays import Delay
from zmqdist.tuning.publications import Held, Publications
from zmqdist.tuning.streams import Purpose, generator
from zmqdist.tuning.virtual_worker import Step, VirtualWorker


@dataclass(slots=True)
class Session:
    """One worker's registration, as `zmqdist.core.sessions.Session`."""

    number: int
    worker: VirtualWorker
    life: int
    clock: int
    limit: int | None = None
    need: int = 0


@dataclass(slots=True)
class Served:
    """What became of a step at the master; a row of the record."""

    step: Step
    time_s: float
    queued_s: float
    service_s: float
    tau: int
    weight: float
    decision: str
    version: int
    update: Any = None
    norm: float = math.nan


class Answer(NamedTuple):
    """What a worker hears of its step, as `zmqdist.core.messages.Ack`."""

    step: Step
    outcome: str
    need: int
    version: int
    published: int
    limit: int | None
    patience: int | None


SKIPPED = "skipped"
"""Decision on a step whose gradient returned nothing."""


class Learner(Protocol):
    """The model of a simulation: what is computed when an update counts."""

    def snapshot(self, version: int) -> Any:
        """Return the model's values, for workers to compute on."""

    def halves(self, step: Step) -> tuple[float | None, float | None]:
        """Compute the update of a step before it is decided on, for its halves."""

    def compute(self, served: Served) -> bool:
        """Compute the update of a step that was accepted; return whether there is one."""

    def apply(self, served: list[Served]) -> None:
        """Apply one update, or several that are merged."""


class Watcher(Protocol):
    """Sees what the master decides."""

    def applied(self, now: float, served: list[Served]) -> None:
        """Note a new version, of one update or of several that were merged."""

    def turned_down(self, served: Served) -> None:
        """Note an update that is not applied."""


class VirtualMaster:
    """Decides, applies and publishes.

    Parameters
    ----------
    cluster : Cluster
    policy : Policy
        A fresh one: it may learn.
    pacing : Pacing
    agenda : Agenda
    learner : Learner or None
        None simulates times alone.
    observer : Watcher
    seed : int
    """

    def __init__(
        self,
        cluster: Cluster,
        policy: Policy,
        pacing: Pacing,
        agenda: Agenda,
        *,
        learner: Learner | None,
        observer: Watcher,
        seed: int,
    ) -> None:
        self.policy, self._pacing, self._agenda = policy, pacing, agenda
        self._learner, self._observer = learner, observer
        self._apply_s = _times(cluster.apply, seed, Purpose.SERVICE)
        self._turn_down_s = _times(cluster.turn_down or FREE, seed, Purpose.TURN_DOWN)
        self._publish_s = _times(cluster.publish, seed, Purpose.PUBLISH)
        self._latency_s = cluster.latency_s
        self._in_s = cluster.update_bytes / cluster.master_in_bytes_s
        self._in_free_at = self._free_at = 0.0
        self.version = 0
        self.published = -1
        self.publications = Publications(cluster)
        self.publish_at = math.inf
        self._awaited = -1
        self.awaiting: dict[int, VirtualWorker] = {}
        self._tells, self._halves = policy.needs.workers, policy.needs.halves
        self._buffers, self._synchronous = policy.buffers, policy.synchronous
        self._counts_clocks = policy.gates or policy.lazy_slack is not None or self._tells
        self._sessions: dict[int, Session] = {}
        self._last_session = 0
        self._clocks: Counter[int] = Counter()
        self._slowest = 0
        self._buffer: list[Served] = []
        self._left_behind = 0
        self._flushes = 0
        self.busy_s = 0.0
        self.publications_made = 0
        self.pulls = 0

    # ---- sessions ------------------------------------------------------------------------

    def join(self, now: float, worker: VirtualWorker) -> tuple[Session, Held]:
        """Open a session, which begins at the slowest worker's clock, and give the model."""
        if self.publish_at <= now:
            self.catch_up(now)
        if self.published < 0:
            self._publish(now)
        self._last_session += 1
        session = Session(self._last_session, worker, worker.life, self._slowest)
        self._sessions[session.number] = session
        self._clocks[session.clock] += 1
        self._move_limits(now, session)
        newest = self.publications.newest
        return session, Held(newest.version, self._slowest, newest.model)

    def leave(self, now: float, session: Session) -> None:
        """Close a session: it holds nobody back any more, and the buffer waits for fewer."""
        del self._sessions[session.number]
        if self._synchronous:  # what it has left behind stands for no other worker's
            self._left_behind += sum(s.step.session is session for s in self._buffer)
        self._clocks[session.clock] -= 1
        if self._tells:
            self.policy.left(session.number)
        if self._left(session.clock) or self._tells:
            self._move_limits(now, None)
        self._flush_if_full(max(now, self._free_at))

    def _answered(self, session: Session, clock: int, begun: float) -> bool:
        """Count a step of a worker; return whether limits may move by it."""
        before = session.clock
        if clock > before:
            session.clock = clock
            self._clocks[before] -= 1
            self._clocks[clock] += 1
        if self._tells:
            self.policy.answered(session.number, session.clock, begun)
        return self._left(before) or self._tells

    def _left(self, clock: int) -> bool:
        """Raise the slowest clock after somebody left `clock`; return whether it moved."""
        if clock != self._slowest or self._clocks[clock] or not self._sessions:
            return False
        while not self._clocks[self._slowest]:
            del self._clocks[self._slowest]
            self._slowest += 1
        return True

    def _move_limits(self, done: float, told: Session | None) -> None:
        """Tell the workers whose limit has moved, but the one that gets it otherwise."""
        if not self.policy.gates:
            return
        arrives = done + self._latency_s
        for session in list(self._sessions.values()):
            limit = self.policy.limit(session.number, self._slowest)
            if limit != session.limit:
                session.limit = limit
                if session is not told:
                    self._agenda.at(arrives, session.worker.go, (session.life, limit))

    # ---- updates -------------------------------------------------------------------------

    def arrive(self, now: float, step: Step) -> None:
        """Take an update in."""
        if self._in_s:
            self._receive(now, 0.0 if step.abandoned else self._in_s, self._serve, step)
        else:
            self._serve(now, step)

    def ask(self, now: float, question: tuple[VirtualWorker, int, int]) -> None:
        """Take the question for a version in."""
        if self._in_s:
            self._receive(now, 0.0, self._answer, question)
        else:
            self._answer(now, question)

    def _receive(self, now: float, takes_s: float, call: Call, subject: Any) -> None:
        """Serve a message when the network card has it: one after another."""
        self._in_free_at = max(self._in_free_at, now) + takes_s
        self._agenda.at(self._in_free_at, call, subject)

    def _serve(self, now: float, step: Step) -> None:
        """Decide on an update, apply it and answer it."""
        session = step.session
        if session.number not in self._sessions:
            step.worker.lost(step)  # its lease ran out on the way
            return
        begun = self._ready(now)
        tau = self.version - step.base
        half_dot: float | None = None
        half_sq: float | None = None
        if self._halves and self._learner is not None and not step.abandoned:
            half_dot, half_sq = self._learner.halves(step)
        verdict, weight = self.policy.decide(
            Arrival(
                tau,
                self.version,
                session.number,
                len(self._sessions),
                begun,
                step.examples,
                step.compute_s,
                half_dot,
                half_sq,
            )
        )
        accepted = verdict is Verdict.APPLY and not step.abandoned
        service_s = next(self._apply_s if accepted else self._turn_down_s)
        done = self._free_at = begun + service_s
        self.busy_s += service_s
        served = Served(
            step, done, begun - step.sent_at, service_s, tau, weight, verdict, self.version
        )
        if accepted and self._learner is not None and not self._learner.compute(served):
            accepted, served.decision = False, SKIPPED
        elif not accepted:
            session.need = max(session.need, self.version)
            if verdict is Verdict.APPLY:
                served.decision = Verdict.REQUEUE  # given up too early
        moves = self._counts_clocks and self._answered(session, step.clock + 1, begun)
        if not accepted:
            self._observer.turned_down(served)
        elif self._buffers:
            self._keep(served)
        else:
            done = self._apply(served)
        if moves:
            self._move_limits(done, session)
        answer = Answer(
            step,
            served.decision,
            session.need,
            self.version,
            self.published,
            session.limit,
            self.policy.patience,
        )
        if (arrives := done + self._latency_s) <= now:
            step.worker.answered(now, answer)
        else:
            self._agenda.at(arrives, step.worker.answered, answer)
        if self._buffer:
            self._flush_if_full(done)

    def _apply(self, served: Served) -> float:
        self._count([served], served.time_s)
        if self._synchronous:
            self._awaited = served.step.session.need = self.version
        return self._publish_if_due(served.time_s)

    def _keep(self, served: Served) -> None:
        self._buffer.append(served)
        if self._synchronous:
            self._awaited = served.step.session.need = self.version + 1
        if len(self._buffer) == 1 and (after_s := self.policy.flush_after_s) is not None:
            self._agenda.at(served.time_s + after_s, self._late, self._flushes)

    def _ready(self, arrived: float) -> float:
        """Return when what has arrived is served: after what came before and is due."""
        begun = max(arrived, self._free_at)
        while self.publish_at <= begun:
            self._publish(max(self.publish_at, self._free_at))
            begun = max(arrived, self._free_at)
        return begun

    def _count(self, served: list[Served], now: float) -> None:
        self.version += 1
        for each in served:
            each.version = self.version
        if self._learner is not None:
            self._learner.apply(served)
        self._observer.applied(now, served)

    def _late(self, now: float, flush: int) -> None:
        if flush == self._flushes:
            self._flush(max(now, self._free_at))

    def _flush_if_full(self, now: float) -> None:
        if self._buffer:
            size = max(1, self.policy.flush_size(len(self._sessions)))
            if not self._sessions or len(self._buffer) - self._left_behind >= size:
                self._flush(now)

    def _flush(self, now: float) -> None:
        served, self._buffer, self._left_behind = self._buffer, [], 0
        self._flushes += 1
        self._count(served, now)
        self._publish_if_due(now)

    # ---- versions ------------------------------------------------------------------------

    def catch_up(self, now: float) -> None:
        """Publish what was due before `now`."""
        due = max(self.publish_at, self._free_at)
        if due <= now:
            self._publish(due)

    def _publish_if_due(self, now: float) -> float:
        """Publish, now or at the time when it is due; return when the master goes on."""
        wait_s = self._pacing.due_in_s(self.version, self.published, now)
        if wait_s == 0 or self.published < self._awaited <= self.version:
            self._publish(now)
            return self._free_at
        self.publish_at = math.inf if wait_s is None else now + wait_s
        return now

    def _publish(self, now: float) -> None:
        done = now + next(self._publish_s)
        self.busy_s += done - now
        self.published = self.version
        self.publish_at = math.inf
        self.publications_made += 1
        model = None if self._learner is None else self._learner.snapshot(self.version)
        self.publications.add(Held(self.version, self._slowest, model), done)
        self.publications.forget(self._agenda.now)
        self._pacing.was_published(now, done, per_round(self.policy, len(self._sessions)))
        self._free_at = max(self._free_at, done)
        if self.awaiting:
            for worker in list(self.awaiting.values()):
                if worker.wake_with(now):
                    del self.awaiting[worker.number]

    def _answer(self, now: float, question: tuple[VirtualWorker, int, int]) -> None:
        """Send a version to a worker, publishing first if it wants a newer one."""
        worker, life, want = question
        begun = self._ready(now)
        wanted = self.version if self.policy.lazy_slack is not None else min(want, self.version)
        if wanted > self.published:
            self._publish(begun)
            begun = self._free_at
        self.pulls += 1
        service_s = next(self._publish_s)
        self.busy_s += service_s
        self._free_at = begun + service_s
        newest = self.publications.newest
        held = Held(newest.version, self._slowest, newest.model)
        arrives = self.publications.reply(self._free_at)
        self._agenda.at(arrives, worker.given, (life, held))


def _times(delay: Delay, seed: int, purpose: Purpose) -> Iterator[float]:
    return delay.stream(generator(seed, 0, purpose))
