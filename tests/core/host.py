"""The workers of a host that share a replica: its rows, its lock, its receiver.

Rows are stood for by the version of their last change, so that a replica with rows of
two versions is seen for what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.core.link import PIECES, Link, Worker
from zmqdist.core import worker_actions as wrk
from zmqdist.core.messages import Version
from zmqdist.core.sharing import Seen

ROWS = PIECES
SILENT_S = 5.0


def changed(version: int) -> set[int]:
    """Return the rows that differ from the version before."""
    return {row for row in range(ROWS) if version % (row + 1) == 0}


def rows_at(version: int) -> list[int]:
    """Return the rows of a version: when each was changed last."""
    return [max(v for v in range(version + 1) if row in changed(v)) for row in range(ROWS)]


@dataclass
class Host:
    """A replica that workers share."""

    version: int = -1
    writing: int = -1
    clock: int = 0
    rows: list[int] = field(default_factory=lambda: [-1] * ROWS)
    receiver: Sharer | None = None
    beat_at: float = float("-inf")
    asking: bool = False
    lives: dict[int, Host] = field(default_factory=dict)

    @property
    def torn(self) -> bool:
        """Whether somebody died while writing."""
        return self.writing != self.version

    def seen(self, worker: Sharer) -> Seen:
        """Return what a worker sees; it becomes the receiver if there is none."""
        if self.receiver is None or self.receiver.over:
            self.receiver = worker
        now = worker.link.now
        if self.receiver is worker:
            self.beat_at, self.asking = now, worker.state.asking
        return Seen(
            self.version,
            self.clock,
            torn=self.torn,
            elected=self.receiver is worker,
            attended=now - self.beat_at < SILENT_S,
            asking=self.asking,
        )

    def load(self, message: Version, rows: int = ROWS) -> None:
        """Write what a message brings; only the first `rows` of it if the writer dies then."""
        if message.version <= self.version or message.version < self.writing:
            return
        self.writing = message.version
        news = [r for r, v in enumerate(rows_at(message.version)) if v > message.base]
        if message.start:  # the last piece
            news = [message.start]
        for row in news[:rows]:
            self.rows[row] = rows_at(message.version)[row]
        if rows == ROWS:
            self.version, self.clock = message.version, message.clock

    def load_piece(self, message: Version) -> None:
        """Write a piece, unless there is something newer."""
        if self.version < 0:
            self.writing = max(self.writing, message.version)
            row = message.start
            self.rows[row] = max(self.rows[row], rows_at(message.version)[row])


@dataclass
class Sharer(Worker):
    """A worker with a shared replica."""

    host: Host = field(default_factory=Host)
    shared: bool = True

    def look(self) -> None:
        """Look at the replica, as the driver does before it decides anything."""
        self.perform(self.state.look(self.host.seen(self), self.link.now))

    def move(self) -> bool:
        """Look, then do the next thing."""
        if not self.over and self.awake:
            self.look()
        return super().move()

    def receive(self, message: object) -> None:
        """Look, take the message, look again."""
        self.look()
        super().receive(message)  # type: ignore[arg-type]
        self.look()

    def load(self, message: Version, *, piece: bool) -> None:
        """Write into the shared replica."""
        if piece:
            self.host.load_piece(message)
        else:
            self.host.load(message)

    def perform(self, actions: list[wrk.Action]) -> None:
        """Take another replica for another incarnation."""
        for action in actions:
            if isinstance(action, wrk.Renew):
                self.host = self.host.lives.setdefault(action.incarnation, self._renewed())
            super().perform([action])

    def _renewed(self) -> Host:
        return Host(lives=self.host.lives)

    def check_read(self) -> None:
        """What is read are rows of one version, the one that `base` says."""
        assert not self.host.torn
        assert self.state.base.version == self.host.version
        assert self.host.rows == rows_at(self.host.version)

    def check(self) -> None:
        """The worker thinks of nothing newer than what the replica holds."""
        assert not self.alive or self.state.version <= self.host.version

    def die_writing(self) -> bool:
        """Die half-way through writing the answer to a pull, if there is anything new."""
        self.look()
        behind = self.link.master.lineage.incarnation != self.state.fresh.incarnation
        if self.over or behind or self.link.master.published <= max(self.host.version, 0):
            return False
        self.host.load(self.link.answer(self.host.version), rows=1)
        self.link.kill(self)
        return True


class SharingLink(Link):
    """A link whose workers live on `hosts` hosts, in turn."""

    def __init__(self, *args: object, hosts: int = 2, **kwargs: object) -> None:
        self.hosts = [Host() for _ in range(hosts)]
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def new_worker(self, epoch: int, partition: int, attempt: int) -> Worker:
        """Start a worker on the next host."""
        host = self.hosts[attempt % len(self.hosts)]
        return Sharer(self, epoch, partition, attempt, self.max_in_flight, host=host)

    def pass_time(self, seconds: float) -> None:
        """Let time pass; those that are awake look, as they do many times a second."""
        super().pass_time(seconds)
        for worker in self.workers:
            if worker.awake and not worker.over:
                worker.look()  # type: ignore[attr-defined]
