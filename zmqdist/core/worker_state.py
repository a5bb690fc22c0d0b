"""The worker's half of the protocol: messages and clock readings in, actions out.

`WorkerState` knows what is unacknowledged, which version the worker holds and
whether the next step may start. It never sees an array: its driver
(`zmqdist.connection`) keeps the encoded updates and the replica, and performs the
actions in order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zmqdist.core.freshness import Freshness
from zmqdist.core.holding import Holding
from zmqdist.core.ledger import Outcome
from zmqdist.core.lineage import Point
from zmqdist.core.messages import (
    IN_LINE,
    REQUEUED,
    Ack,
    Fail,
    Finish,
    Finished,
    Go,
    Heartbeat,
    Hello,
    Message,
    Pong,
    Push,
    Refused,
    Rejoin,
    Stop,
    Version,
    Welcome,
)
from zmqdist.core.parts import Parts
from zmqdist.core.phases import OVER, Phase, Wait
from zmqdist.core.sharing import Seen
from zmqdist.core.unanswered import Unanswered
from zmqdist.core.worker_actions import (
    Action,
    Forget,
    SendToMaster,
    SendUpdate,
)
from zmqdist.errors import LocalProtocolError

HELLO_RETRY_S = 1.0
PULL_RETRY_S = 2.0
BEATS_PER_LEASE = 4
IMPATIENT_S = 1.0


NOTHING = Point(0, -1)


class WorkerState:
    """State of one worker on one partition of one epoch.

    Parameters
    ----------
    run, epoch, partition, attempt, worker
        As in `Hello`.
    max_in_flight : int
        Updates under way at most: computed but not acknowledged, counting the one
        being computed.
    have : Point
        What the replica holds from an earlier partition; version -1 for nothing.
    in_place : bool, default=False
        The worker trains in place: it hears no broadcasts and asks for what it needs.
    keep_bits : int, default=0
        How exact it wants the answers, see `Pull`.
    shared : bool, default=False
        The replica is shared with other workers of the host; `look` says what it holds.
    now : float
        Clock reading, in seconds.
    """

    def __init__(
        self,
        *,
        run: str,
        epoch: int,
        partition: int,
        attempt: int,
        worker: str,
        max_in_flight: int = 2,
        have: Point = NOTHING,
        in_place: bool = False,
        keep_bits: int = 0,
        shared: bool = False,
        now: float = 0.0,
    ) -> None:
        self.hello = Hello(run, epoch, partition, attempt, worker)
        self.max_in_flight = max_in_flight
        self.in_place = in_place
        self._holding = Holding(run, have, in_place=in_place, keep_bits=keep_bits, shared=shared)
        self.phase = Phase.JOINING
        self.reason = ""
        self.session = 0
        self.clock = 0
        self.next_settled = 0
        self.ahead: frozenset[int] = frozenset()
        self.complete = False
        self._unanswered = Unanswered()
        self.requeued: list[int] = []
        self.refusals: list[str] = []
        self.lease_s = 0.0
        self._limit: int | None = None
        self._answered_clock = 0
        self._asked_at: float | None = None
        self._said_hello_at = float("-inf")
        self._beat_at = now
        self.last_heard = now

    # ---- asked by the worker ------------------------------------------------------

    def settled(self, step: int) -> bool:
        """Whether the ledger had settled `step` when the session began."""
        return step < self.next_settled or step in self.ahead

    def waits_for(self) -> Wait | None:
        """Return what has to come before a step may start; None if it may."""
        if self.phase is not Phase.ACTIVE or len(self.unacknowledged) >= self.max_in_flight:
            return Wait.ACK
        if self._ahead_of_limit():
            return Wait.GATE
        return None if self._holding.enough(self.clock) else Wait.MODEL

    def may_start(self) -> bool:
        """Whether a step may start now: credit, clock limit, and a model fresh enough."""
        return self.waits_for() is None

    def push(self, push: Push, now: float, **times: Any) -> list[Action]:
        """Send the update of a step that `may_start` let start, with these times in it."""
        if push.step in self.unacknowledged:
            raise LocalProtocolError(f"step {push.step} is already under way")
        push = replace(push, session=self.session, **times)
        self._unanswered.push(push, now)
        return [SendUpdate(push)]

    def awaits(self, push: Push) -> bool:
        """Whether the answer to this push is open.

        An earlier copy of its step may have been answered while it waited to be sent: its
        arrays are gone then, and those of a later one may be in their place.
        """
        mine = self.unacknowledged.get(push.step)
        return mine is not None and mine.clock == push.clock

    def start(self) -> tuple[int, bool]:
        """Start the step that `may_start` allows.

        Returns
        -------
        clock : int
            The clock of the step.
        read : bool
            Whether to read the replica into the model first. False only with lazy
            reading, while the model at hand is new enough and nothing was requeued.
        """
        read = self._holding.start(self.clock)
        self.clock += 1
        return self.clock - 1, read

    def cancel(self) -> None:
        """Undo the last `start`: nothing is sent of that step, so nothing answers its clock."""
        self.clock -= 1

    @property
    def unacknowledged(self) -> dict[int, Push]:
        """Updates that were pushed and have no answer, by step."""
        return self._unanswered.pushes

    def answered(self) -> bool:
        """Whether each update is acknowledged, or at least one is to be computed again."""
        return not self.unacknowledged or bool(self.requeued)

    @property
    def fresh(self) -> Freshness:
        """Versions of the replica and the model, and the one that is needed."""
        return self._holding.fresh

    @property
    def parts(self) -> Parts:
        """Versions of the parts that the worker asks for."""
        return self._holding.parts

    @property
    def asking(self) -> bool:
        """Whether an answer about the whole model is to come."""
        return self._holding.asking

    @property
    def readable(self) -> bool:
        """Whether the replica holds a version, whole."""
        return self._holding.readable

    @property
    def base(self) -> Point:
        """The version that the worker's model holds."""
        return self.fresh.base

    @property
    def version(self) -> int:
        """The version that the replica holds, -1 for none of this incarnation."""
        return self.fresh.version

    def want(self, now: float) -> list[Action]:
        """Ask for a model that `may_start` accepts, if that is what it waits for."""
        return [] if self._ahead_of_limit() else self._holding.want(self.clock, now)

    def ask(self, part: int, now: float) -> list[Action]:
        """Ask for the newest values of a part; nothing while that is under way already."""
        return self._holding.ask(part, now)

    def look(self, seen: Seen, now: float) -> list[Action]:
        """Take in what the shared replica holds: other workers may have changed it."""
        return self._holding.look(seen, self.clock, now)

    def alone(self, now: float) -> list[Action]:
        """Go on with an empty replica of one's own: the shared one is of no use."""
        return self._holding.alone(now)

    def finish(self, steps: int, now: float, **times: float) -> list[Action]:
        """Say that all `steps` of the partition are settled, with these times in it."""
        finish = Finish(self.session, steps, **times)
        self._unanswered.finish(finish, now)
        return [SendToMaster(finish)]

    def fail(self, step: int, what: str, error: str, traceback: str) -> list[Action]:
        """Say that the task ends with an error."""
        self._enter(Phase.STOPPED)
        return [SendToMaster(Fail(self.session, step, what, error, traceback))]

    # ---- from the master -----------------------------------------------------------

    def receive(self, message: Message, now: float) -> list[Action]:
        """Take one message and return what to do, in order."""
        self.last_heard = now
        self._asked_at = None
        if self.phase in OVER:
            return []
        if isinstance(message, Version):
            if message.incarnation != self.fresh.incarnation:
                return self._of_another_life(message, now)
            return self._holding.take(message, self.clock, now, ahead=self._ahead_of_limit())
        if isinstance(message, Welcome):
            return self._welcome(message, now)
        if isinstance(message, Stop):
            if message.session in (0, self.session):
                self._enter(Phase.STOPPED)
                self.reason = message.reason
            return []
        if isinstance(message, Refused):
            self.refusals.append(message.reason)
            return []
        if getattr(message, "session", None) != self.session or self.phase is Phase.JOINING:
            return []  # an answer to an earlier session of this worker
        match message:
            case Ack():
                return self._ack(message, now)
            case Finished():
                return self._finished(message)
            case Go():
                self._raise_limit(message.limit)
            case Rejoin():
                self._enter(Phase.JOINING)
                return self._say_hello(now)
            case Pong():
                self._raise_limit(message.limit)
                if message.number == IN_LINE:
                    self._holding.patient(now)
                    self._unanswered.patient(now)
                    return []
                return self._unanswered.beat_answered(message.number, self.session, now)
        return []

    def tick(self, now: float) -> list[Action]:
        """Let time pass: say hello again, heartbeat, resend, notice a dead master.

        Hand in the messages that wait first. The master is lost once a question has had
        no answer for a lease; that this worker itself was asleep says nothing of it.
        """
        if self.phase in OVER:
            return []
        if self.lease_s and self._asked_at is not None and now - self._asked_at > self.lease_s:
            self._enter(Phase.LOST)
            return []
        if self.phase is Phase.JOINING:
            return self._say_hello(now) if now - self._said_hello_at >= HELLO_RETRY_S else []
        actions: list[Action] = []
        beat_s = self.lease_s / BEATS_PER_LEASE
        unanswered = self.unacknowledged and now - self.last_heard >= IMPATIENT_S
        if now - self._beat_at >= (min(IMPATIENT_S, beat_s) if unanswered else beat_s):
            self._beat_at = now
            actions += self._ask(Heartbeat(self.session, self._unanswered.beat(now)), now)
        actions += self._unanswered.overdue(self.session, now, beat_s)
        return actions + self._holding.overdue(now, max(PULL_RETRY_S, beat_s))

    # ---- inside ---------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._holding.session = self.session if phase is Phase.ACTIVE else 0

    def _say_hello(self, now: float) -> list[Action]:
        self._said_hello_at = now
        return self._ask(replace(self.hello, clock=self._answered_clock), now)

    def _ask(self, message: Message, now: float) -> list[Action]:
        self._asked_at = now if self._asked_at is None else self._asked_at
        return [SendToMaster(message)]

    def _welcome(self, message: Welcome, now: float) -> list[Action]:
        if message.session <= self.session:
            return []  # of two answers to a repeated hello the master knows only the later
        if message.clock < self._answered_clock:
            # It answers a hello from before the clock was known, and would hold this
            # worker to a limit that it is beyond already.
            self._enter(Phase.JOINING)
            return self._say_hello(now)
        first = self.session == 0
        self.session = message.session
        if first:
            self.hello = replace(self.hello, passes=message.passes)
        self._enter(Phase.ACTIVE)
        self.lease_s = message.lease_s
        self.clock = max(self.clock, message.clock)
        self._answered_clock = max(self._answered_clock, message.clock)
        self._limit = message.limit
        if message.synchronous:
            self.max_in_flight = 1
        self._beat_at = now
        self.next_settled = message.next
        self.ahead = frozenset(message.ahead)
        if message.complete:
            return self._completed(asked=first)
        actions = self._unanswered.updates(self.session, now)
        # Behind the updates, so that the answer to a pull holds them
        newest = self.max_in_flight == 1
        actions += self._holding.welcome(message, first=first, newest=newest, now=now)
        return actions + self._unanswered.end(self.session, now)

    def _of_another_life(self, message: Version, now: float) -> list[Action]:
        """Take a version of a restarted master, which may be the first that is heard of it."""
        later = message.incarnation > self.fresh.incarnation and message.run == self.hello.run
        if not later or self.phase is not Phase.ACTIVE:
            return []
        self._enter(Phase.JOINING)
        return self._say_hello(now)

    def _ack(self, message: Ack, now: float) -> list[Action]:
        self._raise_limit(message.limit)
        push, again = self._unanswered.answered(message.step)
        if push is None:
            return []  # the answer to an update that was sent twice
        self._answered_clock = max(self._answered_clock, push.clock + 1)
        ours = not message.duplicate or again
        applied = ours and message.outcome == Outcome.APPLIED
        actions: list[Action] = [Forget(message.step, applied)]
        if message.outcome == REQUEUED:
            self.requeued.append(message.step)
        self._holding.answered(message, newest=self.max_in_flight == 1)
        if message.outcome in (REQUEUED, Outcome.REJECTED):
            actions += self.want(now)
        return actions

    def _finished(self, message: Finished) -> list[Action]:
        if message.complete:
            return self._completed()
        self._enter(Phase.FINISHED)
        return []

    def _completed(self, *, asked: bool = False) -> list[Action]:
        self.complete = True
        self._enter(Phase.FINISHED)
        if not asked and not self._unanswered.finishing:
            self._enter(Phase.STOPPED)
            self.reason = "another attempt has completed this partition"
        return []

    def _ahead_of_limit(self) -> bool:
        return self._limit is not None and self.clock > self._limit

    def _raise_limit(self, limit: int | None) -> None:
        """Take over a limit unless an older message brings it."""
        if limit is None or self._limit is None or limit > self._limit:
            self._limit = limit
