"""A simulated worker: what `zmqdist.core.worker_state` does, as events in virtual time.

Same rules, other means: broadcasts and limits are looked up when a worker wants to start
rather than delivered, so that a step costs two or three events however many workers listen.
`tests/tuning/test_faithful.py` holds it against the real states.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zmqdist.core.staleness import Verdict
from zmqdist.tuning.agenda import Agenda
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.publications import NOTHING, Held
from zmqdist.tuning.streams import Purpose, generator

if TYPE_CHECKING:
    from zmqdist.tuning.virtual_master import Answer, Session, VirtualMaster
    from zmqdist.tuning.work import Work

END = object()
CREDIT, GATE, MODEL = range(3)
"""What a worker waits for: an answer, slower workers, or a newer version."""


@dataclass(slots=True)
class Step:
    """One step from its beginning until it is settled."""

    worker: VirtualWorker
    life: int
    session: Session
    epoch: int
    partition: int
    number: int
    batch: Any
    examples: int
    base: int
    clock: int
    model: Any
    compute_s: float
    waits_s: list[float]
    sent_at: float = 0.0
    abandoned: bool = False


class VirtualWorker:
    """One worker, from partition to partition.

    Parameters
    ----------
    number : int
    cluster : Cluster
    agenda : Agenda
    master : VirtualMaster
    work : Work
        Where partitions come from.
    max_in_flight : int
    seed : int
    """

    __slots__ = (  # ten thousand workers fit into the processor's cache
        "_again",
        "_agenda",
        "_at_once",
        "_base",
        "_base_clock",
        "_batches",
        "_down",
        "_given",
        "_latency_s",
        "_lazy_slack",
        "_limit",
        "_line_free_at",
        "_line_s",
        "_master",
        "_max_in_flight",
        "_model",
        "_newest",
        "_next",
        "_next_number",
        "_partition",
        "_patience",
        "_policy",
        "_pulling",
        "_speed",
        "_step",
        "_times",
        "_unanswered",
        "_waiting_for",
        "_waiting_since",
        "_waits_s",
        "_work",
        "clock",
        "life",
        "need",
        "number",
        "session",
    )

    def __init__(
        self,
        number: int,
        cluster: Cluster,
        agenda: Agenda,
        master: VirtualMaster,
        work: Work,
        *,
        max_in_flight: int,
        seed: int,
    ) -> None:
        self.number = number
        self._agenda, self._master, self._work = agenda, master, work
        self._policy = master.policy
        self._max_in_flight = 1 if master.policy.synchronous else max_in_flight
        times = cluster.compute_of(number).stream(generator(seed, number, Purpose.COMPUTE))
        self._times: Iterator[float] = times
        self._speed = cluster.speed_of(number, seed)
        self._latency_s = cluster.latency_s
        self._line_s = cluster.update_bytes / cluster.line_bytes_s
        self._line_free_at = 0.0
        self._lazy_slack = master.policy.lazy_slack
        self._at_once = not (self._latency_s or self._line_s) and (
            self._max_in_flight == 1 and self._lazy_slack is None
        )
        self.life = 0
        self.session: Session | None = None
        self.clock = 0
        self.need = 0
        self._step: Step | None = None
        self._partition = -1
        self._batches: Iterator[Any] = iter(())
        self._next: Any = END
        self._next_number = 0
        self._again: deque[Step] = deque()
        self._unanswered = 0
        self._given = NOTHING
        self._newest = 0
        self._limit: int | None = None
        self._patience: int | None = None
        self._base, self._base_clock, self._model = -1, -1, None
        self._pulling = False
        self._waiting_for: int | None = None
        self._waiting_since = 0.0
        self._waits_s = [0.0, 0.0, 0.0]
        self._down = False

    # ---- partitions ----------------------------------------------------------------------

    def join(self, now: float, _: object = None) -> None:
        """Take the next partition, if there is one, and begin."""
        if self._down:
            return
        if self._partition < 0:
            taken = self._work.take()
            if taken is None:
                self._work.wait(self)
                return
            self._partition, self._batches = taken
            self._next_number, self._next = 0, next(self._batches, END)
        self.session, self._given = self._master.join(now, self)
        self.clock, self._limit = self.session.clock, self.session.limit
        self._newest = self._given.version
        self._patience = self._policy.patience
        self._base, self._base_clock, self.need = -1, -1, 0
        self._line_free_at = now
        self.start(now)

    def _finish(self, session: Session, now: float) -> None:
        self.session = None
        self._partition = -1
        self._agenda.at(now + self._latency_s, self._master.leave, session)
        self._agenda.at(now + 2 * self._latency_s, self._finished, None)

    def _finished(self, now: float, _: object) -> None:
        self.join(now)
        self._work.complete(now)

    def die(self, now: float, lease_s: float) -> None:
        """Lose what is being computed; the master notices after the lease."""
        self.life += 1
        self._down = True
        if self._step is not None:
            self._again.appendleft(self._step)
            self._step = None
        if self.session is not None:
            self._agenda.at(now + lease_s, self._master.leave, self.session)
        self.session = None
        self._unanswered = 0
        self._pulling = False
        self._stop_waiting(now)

    def rejoin(self, now: float) -> None:
        """Come back after a failure, to the partition that was left open."""
        self._down = False
        if self._partition >= 0:
            self.join(now)

    def lost(self, step: Step) -> None:
        """Compute a step again that was under way when the worker died."""
        self._again.append(step)

    # ---- steps ---------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Start the next step if there is one and nothing forbids it."""
        session = self.session
        if self._step is not None or session is None:
            return
        self._stop_waiting(now)
        if self._next is END and not self._again:
            if not self._unanswered:
                self._finish(session, now)
            return
        if self._unanswered >= self._max_in_flight:
            self._want(now)
            self._wait(CREDIT, now)
        elif self._beyond_limit():
            self._wait(GATE, now)
        else:
            held = self._held(now)
            if self._fresh_enough(held):
                self._begin(session, held, now)
            else:
                self._want(now)
                self._wait(MODEL, now)

    def _begin(self, session: Session, held: Held, now: float) -> None:
        if self._lazy_slack is None or self._base < self.need or self._stale_model():
            self._base, self._base_clock, self._model = held.version, held.clock, held.model
        if self._again:
            again = self._again.popleft()
            number, batch = again.number, again.batch
        else:
            number, batch = self._next_number, self._next
            self._next_number, self._next = number + 1, next(self._batches, END)
        compute_s = next(self._times) * self._speed
        waits_s, self._waits_s = self._waits_s, [0.0, 0.0, 0.0]
        self._step = Step(
            self,
            self.life,
            session,
            self._work.epoch,
            self._partition,
            number,
            batch,
            1 if batch is None else len(batch),
            self._base,
            self.clock,
            self._model,
            compute_s,
            waits_s,
        )
        self.clock += 1
        self._agenda.at(now + compute_s, self._computed, self.life)

    def _computed(self, now: float, life: int) -> None:
        step = self._step
        if step is None or life != self.life:
            return  # it died meanwhile
        self._step = None
        self._unanswered += 1
        step.sent_at = now
        if self._patience is not None:
            newest = max(self._newest, self._held(now).version)
            step.abandoned = newest - step.base > self._patience
        if self._at_once:
            self._wait(CREDIT, now)
            self._master.arrive(now, step)
            return
        self._line_free_at = max(self._line_free_at, now)
        if not step.abandoned:
            self._line_free_at += self._line_s
        self._agenda.at(self._line_free_at + self._latency_s, self._master.arrive, step)
        self.start(now)

    def answered(self, now: float, answer: Answer) -> None:
        """Take the answer to a step."""
        step, requeued = answer.step, answer.outcome == Verdict.REQUEUE
        if step.life != self.life:
            if requeued:
                self.lost(step)
            return
        self._unanswered -= 1
        self._raise_limit(answer.limit)
        if requeued:
            self._again.append(step)
        self._newest, self._patience = max(self._newest, answer.version), answer.patience
        self.need = max(self.need, answer.need)
        if self._max_in_flight == 1 and self._lazy_slack is None:
            self.need = max(self.need, answer.published)
        if requeued or answer.outcome == Verdict.REJECT:
            self._want(now)
        self.start(now)

    # ---- the model -----------------------------------------------------------------------

    def _held(self, now: float) -> Held:
        master, given = self._master, self._given
        if master.publish_at <= now:
            master.catch_up(now)
        heard = master.publications.held(self.number, now)
        if (given.version, given.clock) > (heard.version, heard.clock):
            return given
        return heard

    def _fresh_enough(self, held: Held) -> bool:
        if held.version < self.need:
            return False
        slack = self._lazy_slack
        return slack is None or not self._stale_model() or held.clock >= self.clock - slack

    def _stale_model(self) -> bool:
        return self._base < 0 or self._base_clock < self.clock - (self._lazy_slack or 0)

    def _beyond_limit(self) -> bool:
        return self._limit is not None and self.clock > self._limit

    def _raise_limit(self, limit: int | None) -> None:
        if limit is None or self._limit is None or limit > self._limit:
            self._limit = limit

    def go(self, now: float, moved: tuple[int, int | None]) -> None:
        """Take a new limit."""
        life, limit = moved
        if life == self.life:
            self._raise_limit(limit)
            if self._waiting_for is not None:
                self.start(now)

    def _want(self, now: float) -> None:
        """Ask for a newer version, if that is what is missing."""
        if self._pulling or self._beyond_limit() or self._fresh_enough(self._held(now)):
            return
        self._pulling = True
        arrives = max(now, self._line_free_at) + self._latency_s  # after what was sent before
        self._agenda.at(arrives, self._master.ask, (self, self.life, self.need))
        if not self.wake_with(now):
            self._master.awaiting[self.number] = self

    def wake_with(self, now: float) -> bool:
        """Wake up when the first broadcast arrives that is new enough; False if none is out."""
        if not self._pulling:
            return True
        clock = -1 if self._lazy_slack is None else self.clock - self._lazy_slack
        arrives = self._master.publications.reaches(self.number, self.need, clock)
        if arrives is None:
            return False
        self._agenda.at(max(now, arrives), self.heard, self.life)
        return True

    def heard(self, now: float, life: int) -> None:
        """Look again: a version or a limit has arrived."""
        if life != self.life:
            return
        if self._pulling and (self._beyond_limit() or self._fresh_enough(self._held(now))):
            self._pulling = False
        self.start(now)

    def given(self, now: float, answer: tuple[int, Held]) -> None:
        """Take the answer to a pull."""
        life, held = answer
        if life == self.life:
            if (held.version, held.clock) > (self._given.version, self._given.clock):
                self._given = held
            self.heard(now, life)

    # ---- waiting -------------------------------------------------------------------------

    def _wait(self, reason: int, now: float) -> None:
        self._waiting_for, self._waiting_since = reason, now

    def _stop_waiting(self, now: float) -> None:
        if self._waiting_for is not None:
            self._waits_s[self._waiting_for] += now - self._waiting_since
            self._waiting_for = None
