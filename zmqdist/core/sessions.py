"""Sessions: which workers are here, and how far each may run ahead of the slowest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from zmqdist.core.ledger import Standing
from zmqdist.core.lineage import Lineage
from zmqdist.core.link import Link
from zmqdist.core.messages import Hello, Welcome
from zmqdist.core.staleness import Policy

NUMBER_BITS = 32
"""Low bits of a session's number that count the sessions of one incarnation."""

MAX_TOLD = 50_000
"""Settled steps beyond the first open one that a worker is told of: a header has to hold them.
What it sends again for want of that is a duplicate."""

MAX_ATTEMPTS_AT_ONCE = 16
"""Sessions of one partition at once: attempts, speculative copies, zombies."""


@dataclass(slots=True)
class Session:
    """One worker's registration for one partition; the number is never used again.

    `clock` counts the steps answered to the worker, from the slowest worker's clock
    when it joined; `limit` is the last clock that it may start, `need` the oldest
    version that it may start on; `closed` says that the worker is gone; `link` is the
    worker's.
    """

    number: int
    peer: bytes
    epoch: int
    partition: int
    attempt: int
    worker: str
    clock: int
    last_seen: float
    limit: int | None = None
    need: int = 0
    closed: bool = False
    link: Link = field(default_factory=Link, compare=False, repr=False)


class Sessions:
    """All open sessions, oldest first.

    Parameters
    ----------
    policy : Policy
        Says how far they may run ahead.
    lineage : Lineage
        The master's. No two masters of a run give out the same number.
    """

    def __init__(self, policy: Policy, lineage: Lineage) -> None:
        self._policy = policy
        self._lineage = lineage
        self._open: dict[int, Session] = {}
        self._last_number = lineage.incarnation << NUMBER_BITS

    def __iter__(self) -> Iterator[Session]:
        return iter(self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def at(self, epoch: int, partition: int | None = None) -> list[Session]:
        """Return the sessions of an epoch, or of one partition of it."""
        return [s for s in self if s.epoch == epoch and partition in (None, s.partition)]

    def superseded(self, hello: Hello) -> tuple[list[Session], list[Session]]:
        """Return the sessions that a hello ends: of the same attempt, and beyond the maximum.

        The first said hello twice. The second are the oldest of its partition, so that
        a worker which says hello under ever new attempts fills no memory.
        """
        here = self.at(hello.epoch, hello.partition)
        same = [s for s in here if s.attempt == hello.attempt]
        others = [s for s in here if s.attempt != hello.attempt]
        return same, others[: max(0, len(others) - MAX_ATTEMPTS_AT_ONCE + 1)]

    def new(self, peer: bytes, hello: Hello, now: float) -> Session:
        """Make a session that starts at the slowest clock; it is not open yet."""
        self._last_number += 1
        return Session(
            number=self._last_number,
            peer=peer,
            epoch=hello.epoch,
            partition=hello.partition,
            attempt=hello.attempt,
            worker=hello.worker,
            clock=max(hello.clock, self.slowest(hello.epoch)),
            last_seen=now,
        )

    def open(self, session: Session) -> None:
        """Open a session made by `new`."""
        self._open[session.number] = session

    def welcome(
        self,
        session: Session,
        standing: Standing,
        version: int,
        published: int,
        publish_port: int,
        lease_s: float,
    ) -> Welcome:
        """Return the message that tells a worker of its session and where to begin."""
        return Welcome(
            session=session.number,
            version=version,
            publish_port=publish_port,
            next=standing.next,
            ahead=sorted(standing.ahead)[:MAX_TOLD],
            complete=standing.complete,
            clock=session.clock,
            limit=session.limit,
            lazy_slack=self._policy.lazy_slack,
            lease_s=lease_s,
            synchronous=self._policy.synchronous,
            patience=self._policy.patience,
            incarnation=self._lineage.incarnation,
            published=published,
            passes=standing.passes or 0.0,
        )

    def close(self, session: Session) -> None:
        """End a session: its worker holds nobody back any more."""
        del self._open[session.number]
        session.closed = True
        if self._policy.needs.workers:
            self._policy.left(session.number)

    def answered(self, session: Session, clock: int) -> None:
        """Note that the worker's step of this clock, the newest message, was answered."""
        session.clock = max(session.clock, clock + 1)
        if self._policy.needs.workers:
            self._policy.answered(session.number, session.clock, session.last_seen)

    def get(self, number: int) -> Session | None:
        """Return the open session of that number."""
        return self._open.get(number)

    def heard(self, number: int, peer: bytes, now: float) -> Session | None:
        """Return the session that a message names, None if it is not open."""
        session = self._open.get(number)
        if session is not None:
            session.peer = peer  # a reconnected socket comes back under a new routing id
            session.last_seen = now
        return session

    def slowest(self, epoch: int | None = None) -> int:
        """Smallest clock over all workers or those of one epoch, 0 without any."""
        return min((s.clock for s in self if epoch in (None, s.epoch)), default=0)

    def move_limits(self, epoch: int) -> list[Session]:
        """Bring the limits of an epoch up to date; return the sessions whose limit moved."""
        if not self._policy.gates:
            return []
        moved, slowest = [], self.slowest(epoch)
        for session in self.at(epoch):
            limit = self._policy.limit(session.number, slowest)
            if limit != session.limit:
                session.limit = limit
                moved.append(session)
        return moved
