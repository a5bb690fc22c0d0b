"""The epochs of a run: which are open, how they stand, what went wrong, whose keys they admit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmqdist.core.ledger import MAX_PARTITIONS, Key, Ledger, Standing
from zmqdist.core.messages import Begin, Begun, Fail, Hello, Report
from zmqdist.core.plans import Plans, Train
from zmqdist.core.report import Counts, Epoch, failure
from zmqdist.core.sessions import Session
from zmqdist.errors import ConfigError, LocalProtocolError

DRIVER_LEASES = 4
"""Leases of silence after which a driver counts as dead and its epochs are closed."""


class Epochs:
    """Records of all epochs of a run, open and closed, and the ledger of the open ones.

    Parameters
    ----------
    run : str
        The run's name.
    """

    def __init__(self, run: str) -> None:
        self.ledger = Ledger()
        self.plans = Plans()
        self._run = run
        self._open: dict[int, Epoch] = {}
        self._closed: dict[int, Epoch] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def __getitem__(self, number: int) -> Epoch:
        return self._open[number]

    def begin(self, begin: Begin, counted: dict[str, Any], now: float, **standing: Any) -> Begun:
        """Open the epoch that a driver means, or open it again; return the answer.

        Parameters
        ----------
        begin : Begin
        counted : dict
            The counters now, see `Counts.state`.
        now : float
            Clock reading, in seconds.
        **standing
            The master's fields of `Begun`.

        Raises
        ------
        ConfigError
            The number of partitions cannot be, or is not what the epoch was begun with.
        """
        if not 1 <= begin.partitions <= MAX_PARTITIONS:
            raise ConfigError(f"{begin.partitions:,} partitions; expected 1 to {MAX_PARTITIONS:,}")
        number, before = -1, counted
        program = self.plans.program(begin)
        train = self.plans.last(program) if program else None
        if program and (train is None or begin.train > train.number):
            train = self.plans.begin(program, begin.train, counted)
        if train is None or begin.train == train.number:
            before = train.before if train is not None else counted
            if train is None or not train.over:
                number = self._open_for(begin, program, train, now)
        return Begun(run=self._run, epoch=number, program=program, before=before, **standing)

    def _open_for(self, begin: Begin, program: str, train: Train | None, now: float) -> int:
        if train is None or begin.number >= len(train.epochs):
            number = self.ledger.open(begin.partitions)
            record = Epoch(begin.worker_key, now, begin.partitions, program, begin.steps)
            self._open[number] = record
            if train is not None:
                train.epochs.append(number)
            return number
        number = train.epochs[begin.number]
        record = self._open.get(number) or self._closed[number]
        was, now_is = (record.partitions, record.steps), (begin.partitions, begin.steps)
        if was != now_is:
            raise ConfigError(
                f"epoch {begin.number + 1} of this train() was begun with {_shape(*was)}, now the "
                f"data comes as {_shape(*now_is)}; resume with the same data, cut the same way"
            )
        if number not in self and record.missing:
            self.ledger.reopen(number)
            self._open[number] = self._closed.pop(number)
        record.worker_key, record.last_seen, record.fatal = begin.worker_key, now, None
        return number

    def close(self, number: int) -> None:
        """Close an open epoch: from here on its updates are refused."""
        record = self._closed[number] = self._open.pop(number)
        record.missing = self.ledger.missing(number)
        self.ledger.close(number)
        if not record.missing or number not in self.plans:
            self.ledger.forget(number)

    def superseded(self) -> list[int]:
        """Return the open epochs whose program has gone on without them; forget closed ones."""
        for number in self.ledger.closed():
            if number not in self.plans:
                self.ledger.forget(number)
        return [n for n, record in self._open.items() if record.program and n not in self.plans]

    def standing(self, key: Key) -> Standing:
        """Return where the partition of `key` stands; its epoch must be open."""
        standing = self.ledger.standing(key.epoch, key.partition)
        if standing is None:
            raise LocalProtocolError(f"{key} belongs to no open epoch")
        return standing

    def cut_alike(self, hello: Hello, standing: Standing) -> bool:
        """Say by which `passes` a partition is cut into steps, once; whether a worker agrees.

        Who comes back to a master that has lost what it said before says it himself. Another
        attempt may have come between: of that partition nothing was settled then, and only
        the one that came first goes on.
        """
        if standing.passes is None:
            train = self.plans.of(hello.epoch)
            before = 0 if train is None else train.epochs.index(hello.epoch)
            standing.passes = round(before + self.ledger.share_complete(hello.epoch), 6)
            if hello.passes is not None and before <= hello.passes <= before + 1:
                standing.passes = hello.passes
        return hello.passes in (None, standing.passes)

    def fail(self, key: Key, what: str, error: str, traceback: str = "") -> str:
        """Mark an open epoch as failed for good; return the reason for its workers."""
        failed = failure(what, error, key.partition, key.step, traceback)
        record = self._open[key.epoch]
        record.fatal = record.fatal or failed
        where = f" on partition {key.partition}" if key.partition >= 0 else ""
        return f"{what} failed{where}: {failed['error']}"

    def failed_task(self, session: Session, message: Fail) -> None:
        """Keep what a worker reports of the task that it gives up."""
        failed = failure(
            message.what, message.error, session.partition, message.step, message.traceback
        )
        who = {"attempt": session.attempt, "worker": session.worker[:100]}
        self._open[session.epoch].keep(failed | who)

    def report(self, number: int, counts: Counts, **standing: Any) -> Report:
        """Return how an epoch stands; fatal if no such epoch was opened here."""
        record = self._open.get(number) or self._closed.get(number)
        if record is None:
            nothing = failure("epoch", f"run {self._run} has no epoch {number}")
            record = Epoch("", 0.0, fatal=nothing)
        missing = self.ledger.missing(number) if number in self else record.missing
        return counts.report(record, missing, **standing)

    def heard(self, number: int, now: float) -> None:
        """Note that the epoch's driver lives; it looks at one of its epochs at a time."""
        if number not in self._open:
            return
        program = self._open[number].program
        for other, record in self._open.items():
            if other == number or (program and record.program == program):
                record.last_seen = now

    def left_alone(self, now: float, lease_s: float) -> dict[int, str]:
        """Mark the open epochs failed whose driver counts as dead; return them with the reason."""
        silence_s = DRIVER_LEASES * lease_s
        reason = f"the driver has been silent for {silence_s:.0f} s"
        alone = [n for n, record in self._open.items() if now - record.last_seen > silence_s]
        for number in alone:
            self._open[number].fatal = self._open[number].fatal or failure("driver", reason)
        return dict.fromkeys(alone, reason)

    def keys_to_withdraw(self, now: float, after_s: float) -> list[str]:
        """Return worker keys that no epoch has used for so long; each is returned once.

        A task that starts late can still connect until then, and is told to stop.
        """
        recent = [r for r in self._closed.values() if now - r.last_seen <= after_s]
        in_use = {"", *(r.worker_key for r in [*self._open.values(), *recent])}
        old = {record.worker_key for record in self._closed.values()} - in_use
        for record in self._closed.values():
            if record.worker_key in old:
                record.worker_key = ""
        return sorted(old)

    # ---- for a checkpoint ---------------------------------------------------------------

    def journal(self) -> dict[str, Any]:
        """Return which epochs there are, as JSON values; public keys, no secret ones."""
        return {
            "open": [[number, record.state()] for number, record in self._open.items()],
            "closed": [[n, r.state()] for n, r in self._closed.items() if n in self.plans],
            "plans": self.plans.state(),
        }

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint keeps, as JSON values."""
        return {**self.journal(), "ledger": self.ledger.state()}

    def load_state(self, saved: dict[str, Any], now: float) -> None:
        """Go on from what `state` returned."""
        for name, table in (("open", self._open), ("closed", self._closed)):
            for number, record in saved[name]:
                table[number] = Epoch(last_seen=now, **record)
        self.plans.load_state(saved["plans"])
        self.ledger.load_state(saved["ledger"])

    def learn(self, journal: dict[str, Any], now: float) -> None:
        """Take in what was noted after the checkpoint that `load_state` went on from.

        Nothing is settled of epochs that began since. Those that the drivers have left
        behind are closed.
        """
        known = self.ledger.next_epoch
        for number, record in [*journal["open"], *journal["closed"]]:
            if number < known:
                continue
            self.ledger.open(record["partitions"], number)
            self._open[number] = Epoch(last_seen=now, **{**record, "missing": []})
        self.plans.load_state(journal["plans"])
        for number in self.superseded():
            self.close(number)

    def worker_keys(self) -> list[str]:
        """Return the keys that admit workers."""
        records = [*self._open.values(), *self._closed.values()]
        return sorted({record.worker_key for record in records} - {""})


def _shape(partitions: int, steps: str) -> str:
    return f"{partitions:,} partitions{steps and ', '}{steps}"
