"""The master's half of the protocol: messages and clock readings in, actions out.

`MasterState` decides; it performs nothing and holds no array, socket or clock. Its
driver (`zmqdist.master`) hands it one message at a time, performs the actions that
come back in order, and reports what became of each `Apply` by `applied` or
`misfit`. Ordering inside one call is the order on the wire.
"""

from __future__ import annotations

from typing import Any

from zmqdist.core.actions import (
    Action,
    Apply,
    Dismiss,
    Flush,
    Publish,
    Save,
    Send,
    SendSnapshot,
)
from zmqdist.core.buffer import Buffer
from zmqdist.core.driver_side import DriverSide
from zmqdist.core.epochs import Epochs
from zmqdist.core.judge import Judge
from zmqdist.core.ledger import Key, Outcome
from zmqdist.core.lineage import Lineage
from zmqdist.core.messages import (
    Ack,
    Begin,
    End,
    Fail,
    Finish,
    Finished,
    Go,
    Heartbeat,
    Hello,
    Leave,
    Message,
    Pong,
    Pull,
    Push,
    Refused,
    Rejoin,
    Report,
    Status,
    Stop,
)
from zmqdist.core.pacing import Pacing, per_round
from zmqdist.core.report import Counts
from zmqdist.core.saving import Saving
from zmqdist.core.sessions import Session, Sessions
from zmqdist.core.staleness import Policy
from zmqdist.errors import LocalProtocolError


class MasterState:
    """State of the master within one run.

    Parameters
    ----------
    run : str
        Random name of the run.
    policy : Policy
        Decides on updates by their staleness and on who may run ahead. A copy of it works here.
    schema : dict of str to [dtype, shape]
        The parameters, for `Begun`.
    publish_port : int
        Where versions are broadcast.
    lease_s : float
        Silence after which a worker loses its session, in seconds.
    pacing : Pacing
        When to publish.
    lineage : Lineage
        The incarnations of the run, this one included.
    saving : Saving
        When to write checkpoints.
    """

    def __init__(
        self,
        run: str,
        policy: Policy,
        *,
        schema: dict[str, list[Any]],
        publish_port: int = 0,
        lease_s: float = 30.0,
        pacing: Pacing | None = None,
        lineage: Lineage | None = None,
        saving: Saving | None = None,
    ) -> None:
        self.run = run
        self.lineage = lineage or Lineage()
        self.policy = policy.fresh()
        self.schema = schema
        self.publish_port, self.lease_s = publish_port, lease_s
        self.pacing = pacing or Pacing()
        self.saving = saving or Saving()
        self.version, self.published = 0, -1
        self.sessions = Sessions(self.policy, self.lineage)
        self.counts = Counts()
        self.totals, self.staleness = self.counts.totals, self.counts.staleness
        self.epochs = Epochs(run)
        self.ledger = self.epochs.ledger
        self._applying: Apply | None = None
        self._judge = Judge(self.policy, self.totals)
        self._buffer = Buffer(self.policy)
        self._awaited = -1
        self._kept = dict[str, Any](epochs=self.epochs, counts=self.counts, buffer=self._buffer)
        self._drivers = DriverSide(self)

    # ---- in ----------------------------------------------------------------------

    def receive(self, peer: bytes, message: Message, now: float) -> list[Action]:
        """Take one message from `peer` and return what to do, in order."""
        if self._applying is not None:
            raise LocalProtocolError(f"{self._applying} has not been reported yet")
        self.saving.changes += isinstance(message, (Push, Finish, Begin, End, Leave))
        match message:
            case Hello():
                return self._hello(peer, message, now)
            case Begin() | Status() | End() | Leave():
                return self._drivers.receive(peer, message, now)
            case Pull(session=0):
                return self._pull(peer, message)
            case Push() | Pull() | Heartbeat() | Finish() | Fail():
                if (session := self.sessions.heard(message.session, peer, now)) is not None:
                    return self._from_worker(session, message, now)
                return [Send(peer, Rejoin(message.session))]
        return [Send(peer, Refused(f"a master takes no {message.kind!r} message"))]

    def _from_worker(self, session: Session, message: Message, now: float) -> list[Action]:
        match message:
            case Push():
                return self._push(session, message, now)
            case Pull():
                return self._pull(session.peer, message)
            case Finish():
                return self._finish(session, message)
            case Fail():
                return self._fail(session, message)
        number = message.number if isinstance(message, Heartbeat) else 0
        return [Send(session.peer, Pong(session.number, session.limit, number))]

    def tick(self, now: float) -> list[Action]:
        """Let time pass: evict silent workers, publish if it is due.

        Hand in the messages that wait first: a worker is silent only if none came.
        """
        late = [s for s in self.sessions if now - s.last_seen > self.lease_s]
        self.totals.evicted += len(late)
        actions = self._close_sessions(late)
        for epoch, reason in self.epochs.left_alone(now, self.lease_s).items():
            actions += self._drivers.close(epoch, reason)
        actions += [Dismiss(key) for key in self.epochs.keys_to_withdraw(now, self.lease_s)]
        actions += self._buffer.flush(len(self.sessions), now)
        if self.publish_due(now):
            actions.append(Publish())
        if self.saving.due(now):
            actions.append(Save())
        return actions

    def publish_due(self, now: float) -> bool:
        """Whether the model should be published now: by its pace, or as workers wait for it."""
        if self.published < self._awaited <= self.version:
            return True
        return self.pacing.due(self.version, self.published, now)

    # ---- what became of an action -----------------------------------------------------

    def applied(self, action: Apply, now: float | None = None) -> list[Action]:
        """Count the update of `action`, which is in the model now, as the next version.

        With the time at hand a publication that is due goes out before the answer, so
        that a worker which waits for the newest version knows of it.
        """
        self._reported(action)
        self.version += 1
        self.counts.applied(action)
        self._settle(action.key, Outcome.APPLIED)
        if self.policy.synchronous:
            self._awaited = action.session.need = self.version
        due = now is not None and self.publish_due(now)
        answers = self._answer(action.session, action.push, Outcome.APPLIED, publishes=due)
        return [Publish(), *answers] if due else answers

    def buffered(self, action: Apply, now: float) -> list[Action]:
        """Settle the update of `action`, which waits for the flush that merges it."""
        self._reported(action)
        self._buffer.add(action, now)
        if self.policy.synchronous:
            self._awaited = action.session.need = self.version + 1
        self._settle(action.key, Outcome.APPLIED)
        return [
            *self._answer(action.session, action.push, Outcome.APPLIED),
            *self._buffer.flush(len(self.sessions)),
        ]

    def flushed(self, flush: Flush) -> None:
        """Count the updates of `flush`, which are in the model now, as the next version."""
        self.version += 1
        for action in flush.updates:
            self.counts.applied(action)

    def sent_back(self, action: Apply) -> list[Action]:
        """Have an update computed again that was accepted but cannot be applied as it is."""
        self._reported(action)
        outcome = self._judge.requeue(action.session, action.tau, self.version)
        return self._answer(action.session, action.push, outcome)

    def misfit(self, action: Apply, what: str, error: str, traceback: str = "") -> list[Action]:
        """End the epoch of `action`, whose update cannot be applied.

        The epoch cannot be completed without it: its workers are stopped and the driver
        is told.
        """
        self._reported(action)
        self.totals.refused += 1
        return self.fail_epoch(action.key, what, error, traceback)

    def unflushed(self, flush: Flush, what: str, error: str, traceback: str = "") -> list[Action]:
        """End the epochs of `flush`, whose updates cannot be merged or applied."""
        self.totals.refused += len(flush.updates)
        keys = {a.key.epoch: a.key for a in flush.updates if a.key.epoch in self.epochs}
        return [a for key in keys.values() for a in self.fail_epoch(key, what, error, traceback)]

    def garbled(self, action: Apply, reason: str) -> list[Action]:
        """Drop the session whose update cannot be decoded; nothing else changes."""
        self._reported(action)
        self.totals.refused += 1
        refused = Send(action.session.peer, Refused(reason))
        return [refused, *self._close_sessions([action.session])]

    def fail_epoch(self, key: Key, what: str, error: str, traceback: str = "") -> list[Action]:
        """End an epoch for a failure that a retry cannot mend."""
        return self.stop_workers(key.epoch, self.epochs.fail(key, what, error, traceback))

    def fail_all(self, what: str, error: str) -> list[Action]:
        """End all epochs for a failure that no partition is to blame for."""
        return [a for e in self.epochs for a in self.fail_epoch(Key(e, -1, -1), what, error)]

    def was_published(self, started: float, ended: float) -> None:
        """Note that the snapshot is the current version; it took from start to end."""
        self.published = self.version
        self.pacing.was_published(started, ended, per_round(self.policy, len(self.sessions)))

    def start_over(self) -> None:
        """Begin another life: the model was changed, and no version says so."""
        self.lineage.starts.append(self.version)
        self.published = -1
        self.saving.changes += 1

    def report(self, epoch: int) -> Report:
        """Return how `epoch` stands; fatal if no such epoch was opened here."""
        return self._drivers.report(epoch)

    # ---- for a checkpoint -------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return a copy of all that a checkpoint keeps, as JSON values.

        Sessions are no part of it: workers say hello again.
        """
        return {"version": self.version, **{name: p.state() for name, p in self._kept.items()}}

    def load_state(self, saved: dict[str, Any], now: float) -> None:
        """Go on from what `state` returned, as a new incarnation."""
        self.version = saved["version"]
        for name, part in self._kept.items():
            part.load_state(saved[name], now)

    # ---- workers --------------------------------------------------------------------

    def _hello(self, peer: bytes, message: Hello, now: float) -> list[Action]:
        standing = self.ledger.standing(message.epoch, message.partition)
        if message.run != self.run or standing is None:
            whose = "another run" if message.run != self.run else "a closed epoch"
            return [Send(peer, Stop(0, f"{whose}: epoch {message.epoch}"))]
        if fatal := self.epochs[message.epoch].fatal:
            return [Send(peer, Stop(0, f"{fatal['what']} failed: {fatal['error']}"))]
        if not self.epochs.cut_alike(message, standing):
            return [Send(peer, Stop(0, "another attempt cuts this partition differently"))]
        earlier, crowded_out = self.sessions.superseded(message)
        actions = self._close_sessions([*earlier, *crowded_out])
        session = self.sessions.new(peer, message, now)
        self.totals.sessions += not earlier
        if not standing.complete:
            self.sessions.open(session)
            actions += self._move_limits(message.epoch, but=session)
        welcome = self.sessions.welcome(
            session, standing, self.version, self.published, self.publish_port, self.lease_s
        )
        return [*actions, Send(peer, welcome)]

    def _push(self, session: Session, message: Push, now: float) -> list[Action]:
        key = Key(session.epoch, session.partition, message.step)
        standing = self.epochs.standing(key)
        tau = self.lineage.distance(self.version, message.point)
        if tau is None or not standing.within_reach(message.step):
            self.totals.refused += 1
            reason = f"push of step {message.step} on version {message.base}; at {self.version}"
            return [Send(session.peer, Refused(reason))]
        if settled := standing.outcome(message.step):
            self.totals.duplicates += 1
            return self._answer(session, message, settled, duplicate=True)
        self.totals.worked(message)
        if message.empty:
            self.totals.skipped += 1
            self._settle(key, Outcome.SKIPPED)
            return self._answer(session, message, Outcome.SKIPPED)
        judged = self._judge.judge(
            key, session, message, tau, version=self.version, workers=len(self.sessions), now=now
        )
        if isinstance(judged, Apply):
            self._applying = judged
            return [judged]
        if judged is Outcome.REJECTED:
            self._settle(key, Outcome.REJECTED)
        return self._answer(session, message, judged)

    def _pull(self, peer: bytes, message: Pull) -> list[Action]:
        lazy = self.policy.lazy_slack is not None
        wanted = self.version if lazy else min(message.want, self.version)
        begins = message.start <= 0  # further pieces are of what is published
        behind = (wanted > self.published and begins) or self.published < 0
        return [*([Publish()] if behind else []), SendSnapshot(peer, message)]

    def _finish(self, session: Session, message: Finish) -> list[Action]:
        self.totals.worked(message)
        epoch, partition = session.epoch, session.partition
        done = self.ledger.finish(epoch, partition, message.steps)
        settled = self.epochs.standing(Key(epoch, partition, 0)).next
        ended = self.sessions.at(epoch, partition) if done else [session]
        answers: list[Action] = [Send(s.peer, Finished(s.number, done, settled)) for s in ended]
        return answers + self._close_sessions(ended)

    def _fail(self, session: Session, message: Fail) -> list[Action]:
        self.totals.failed += 1
        self.epochs.failed_task(session, message)
        pong = Send(session.peer, Pong(session.number, session.limit))
        return [pong, *self._close_sessions([session])]

    # ---- inside -----------------------------------------------------------------------

    def _settle(self, key: Key, outcome: Outcome) -> None:
        self.epochs.standing(key).settle(key.step, outcome)
        self.totals.settled += 1

    def _reported(self, action: Apply) -> None:
        if self._applying is not action:
            raise LocalProtocolError(f"{action} is reported but was not being applied")
        self._applying = None

    def _answer(
        self,
        session: Session,
        push: Push,
        outcome: str,
        *,
        duplicate: bool = False,
        publishes: bool = False,
    ) -> list[Action]:
        self.sessions.answered(session, push.clock)
        others = self._move_limits(session.epoch, but=session)
        ack = Ack(
            session=session.number,
            step=push.step,
            outcome=str(outcome),
            version=self.version,
            published=self.version if publishes else self.published,
            limit=session.limit,
            duplicate=duplicate,
            need=session.need,
            patience=self.policy.patience,
        )
        return [Send(session.peer, ack), *others]

    def slowest(self) -> int:
        """Smallest clock over the workers that are here, 0 without any."""
        return self.sessions.slowest()

    def _move_limits(self, epoch: int, but: Session | None = None) -> list[Action]:
        """Tell the workers whose limit has moved, but the one that gets it otherwise."""
        moved = self.sessions.move_limits(epoch)
        return [Send(s.peer, Go(s.number, s.limit)) for s in moved if s is not but]

    def _close_sessions(self, sessions: list[Session]) -> list[Action]:
        for session in sessions:
            self.sessions.close(session)
        moved = [a for e in sorted({s.epoch for s in sessions}) for a in self._move_limits(e)]
        return [*moved, *self._buffer.flush(len(self.sessions))]

    def stop_workers(self, epoch: int, reason: str) -> list[Action]:
        """End the sessions of an epoch."""
        stopped = self.sessions.at(epoch)
        for session in stopped:
            self.sessions.close(session)
        stops = [Send(s.peer, Stop(s.number, reason)) for s in stopped]
        return [*stops, *self._buffer.flush(len(self.sessions))]
