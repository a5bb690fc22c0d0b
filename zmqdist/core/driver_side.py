"""The master's answers to drivers: epochs begun, watched and ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zmqdist.core.actions import Action, Admit, Note, Publish, Send
from zmqdist.core.messages import Begin, End, Leave, Refused, Report, Status
from zmqdist.errors import ConfigError

if TYPE_CHECKING:
    from zmqdist.core.master_state import MasterState


class DriverSide:
    """The half of a `MasterState` that drivers talk to.

    Parameters
    ----------
    master : MasterState
        The other half.
    """

    def __init__(self, master: MasterState) -> None:
        self._master = master
        self._epochs = master.epochs
        self._saving = master.saving

    def receive(
        self, peer: bytes, message: Begin | Status | End | Leave, now: float
    ) -> list[Action]:
        """Take a driver's message and return what to do, in order."""
        if isinstance(message, Begin):
            return self._begin(peer, message, now)
        if message.run != self._master.run:
            return [Send(peer, self.report(-1))]
        if isinstance(message, Status):
            self._epochs.heard(message.epoch, now)
            return [Send(peer, self.report(message.epoch))]
        if isinstance(message, End):
            return self._end(peer, message)
        self._epochs.plans.leave(message.program)
        self._saving.want()
        return [Send(peer, self.report(-1))]

    def report(self, epoch: int) -> Report:
        """Return how `epoch` stands; fatal if no such epoch was opened here."""
        master, saving = self._master, self._saving
        return self._epochs.report(
            epoch,
            master.counts,
            version=master.version,
            published=master.published,
            workers=len(master.sessions.at(epoch)),
            incarnation=master.lineage.incarnation,
            changes=saving.changes,
            saved=saving.saved,
            trouble=saving.trouble,
            policy={n: f for n, f in master.policy.figures().items() if math.isfinite(f)},
        )

    def close(self, epoch: int, reason: str) -> list[Action]:
        """Close an epoch if it is open; its workers are told to stop."""
        if epoch not in self._epochs:
            return []
        actions = self._master.stop_workers(epoch, reason)
        self._epochs.close(epoch)
        return actions

    def _begin(self, peer: bytes, message: Begin, now: float) -> list[Action]:
        master = self._master
        try:
            begun = self._epochs.begin(
                message,
                master.counts.state(),
                now,
                version=master.version,
                schema=master.schema,
                lease_s=master.lease_s,
                incarnation=master.lineage.incarnation,
                unfit_in_place=master.policy.unfit_in_place(),
            )
        except ConfigError as error:
            return [Send(peer, Refused(str(error)))]
        reason = "a later train() of the program has begun"
        actions = [a for epoch in self._epochs.superseded() for a in self.close(epoch, reason)]
        if message.worker_key and begun.epoch >= 0:
            actions.append(Admit(message.worker_key))
        if self._saving.every_s is not None:
            actions.append(Note())
        return [*actions, Send(peer, begun)]

    def _end(self, peer: bytes, message: End) -> list[Action]:
        master, report = self._master, self.report(message.epoch)
        if message.over and message.incarnation == report.incarnation:
            self._epochs.plans.end(message.epoch)
            self._saving.want()
        closing = self.close(message.epoch, message.reason or "the epoch is closed")
        # Of what changes from here on until another epoch begins, no update will tell.
        behind = 0 <= master.published < master.version
        return [*closing, Send(peer, report), *([Publish()] if behind else [])]
