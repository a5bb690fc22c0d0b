"""What a master does about peers that send too much: drops it, says so, and takes its time."""

from __future__ import annotations

import logging

from zmqdist.core.budgets import Budgets
from zmqdist.core.notices import Notices
from zmqdist.core.report import Totals
from zmqdist.net.transport import Envelope, MasterSockets

log = logging.getLogger(__name__)

DROPS_AT_ONCE = 10
"""Messages dropped in a row before the master rests. Peers are heard in turn, so by then no
other waits."""

REST_S = 0.001
"""Length of that rest, in seconds."""


class Flood:
    """Keeps peers that flood from getting all the time of a master.

    Parameters
    ----------
    sockets : MasterSockets
    totals : Totals
        Counts what is dropped.
    """

    def __init__(self, sockets: MasterSockets, totals: Totals) -> None:
        self._sockets, self._totals = sockets, totals
        self._budgets, self._notices = Budgets(), Notices()
        self._in_a_row = 0

    def admits(self, envelope: Envelope, now: float) -> bool:
        """Whether a message is to be read; else it is dropped."""
        if envelope.role == "driver" or self._budgets.spend(envelope.peer, now):
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        self._totals.dropped += 1
        if (more := self._notices.due(now)) is not None:
            log.warning("a peer sends too much that settles nothing: dropped%s", more)
        return False

    def earn(self, peer: bytes) -> None:
        """Reward a peer for an update."""
        self._budgets.earn(peer)

    def rested(self) -> bool:
        """Rest if many were dropped in a row; return whether they were."""
        if self._in_a_row < DROPS_AT_ONCE:
            return False
        self._in_a_row = 0
        self._sockets.rest(REST_S)
        return True
