"""What comes to a master, in the order in which it is handled: short messages pass long work.

A large update or a question about a large model takes the master long, and many workers may
ask at once, as at the beginning of an epoch. That work stands in line. What is short passes
it, so that nobody takes a busy master for a dead one; and what stands in line already is
not put there twice, however often those who wait ask again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from dataclasses import replace
from typing import NamedTuple

from zmqdist.core.messages import (
    IN_LINE,
    Begin,
    End,
    Heartbeat,
    Leave,
    Message,
    Pull,
    Push,
    Refused,
    Status,
)
from zmqdist.core.notices import Notices
from zmqdist.core.report import Totals
from zmqdist.errors import ProtocolError, RemoteProtocolError
from zmqdist.flood import Flood
from zmqdist.net.transport import Envelope, MasterSockets
from zmqdist.wire.frames import Received, pack, unpack

log = logging.getLogger(__name__)

LONG_BYTES = 1 << 20
"""Messages of so many bytes are long work, and questions about a model of so many."""

PASSES = 100
"""Short messages in a row after which it is the turn of long work."""


class Arrived(NamedTuple):
    """A message that is to be handled now."""

    peer: bytes
    received: Received
    size_bytes: int


class Intake:
    """Reads the master's messages and refuses what is none.

    Parameters
    ----------
    sockets : MasterSockets
    totals : Totals
        Where bytes and refusals are counted.
    max_update_bytes, model_bytes : int
        What an update may decode to, and the size of the model.
    """

    def __init__(
        self, sockets: MasterSockets, totals: Totals, *, max_update_bytes: int, model_bytes: int
    ) -> None:
        self._sockets, self._totals = sockets, totals
        self._max_update_bytes, self._model_bytes = max_update_bytes, model_bytes
        self._flood, self._refusals = Flood(sockets, totals), Notices()
        self._line: deque[Arrived] = deque()
        self._in_line: Counter[bytes] = Counter()
        self._passed = 0

    def __len__(self) -> int:
        """How many stand in line."""
        return len(self._line)

    def next(self) -> Arrived | None:
        """Return the message to handle now, None if nothing waits or the master should rest."""
        while not self._line or self._passed < PASSES:
            envelope = self._sockets.receive()
            if envelope is None:
                break
            if not self._flood.admits(envelope, time.monotonic()):
                if self._flood.rested():
                    return None
            elif (arrived := self._read(envelope)) is not None:
                if (short := self._pass(arrived)) is not None:
                    return short
        if not self._line:
            return None
        self._passed = 0
        first = self._line.popleft()
        self._in_line[first.peer] -= 1
        if not self._in_line[first.peer]:
            del self._in_line[first.peer]
        return first

    def earn(self, peer: bytes) -> None:
        """Reward a peer for an update."""
        self._flood.earn(peer)

    def refuse(self, peer: bytes, error: ProtocolError) -> None:
        """Tell a peer that a message of it is refused."""
        self._totals.refused += 1
        self.warn_of("a message", error)
        self._sockets.send(peer, pack(Refused(str(error))))

    def warn_of(self, what: str, error: ProtocolError) -> None:
        """Log that something is refused, at a bounded rate."""
        if (more := self._refusals.due(time.monotonic())) is not None:
            log.warning("refused %s: %s%s", what, error, more)

    def _read(self, envelope: Envelope) -> Arrived | None:
        size_bytes = sum(map(len, envelope.frames))
        self._totals.bytes_received += size_bytes
        try:
            if envelope.too_large:
                raise RemoteProtocolError(
                    f"message of more than {self._max_update_bytes:,} bytes, or of too many frames"
                )
            received = unpack(envelope.frames)
            _check_role(envelope.role, received.message)
        except ProtocolError as error:
            self.refuse(envelope.peer, error)
            return None
        return Arrived(envelope.peer, received, size_bytes)

    def _pass(self, arrived: Arrived) -> Arrived | None:
        """Return what is handled at once; all else stands in line, behind its peer's own."""
        behind = arrived.peer in self._in_line
        if behind and isinstance(arrived.received.message, Heartbeat):
            beat = replace(arrived.received.message, number=IN_LINE)
            arrived = arrived._replace(received=arrived.received._replace(message=beat))
        elif behind or self._is_long(arrived):
            if any(_same(arrived, other) for other in self._line):
                self._totals.duplicates += isinstance(arrived.received.message, Push)
                return None
            self._line.append(arrived)
            self._in_line[arrived.peer] += 1
            return None
        self._passed += bool(self._line)
        return arrived

    def _is_long(self, arrived: Arrived) -> bool:
        message = arrived.received.message
        whole = isinstance(message, Pull) and not message.part
        return (self._model_bytes if whole else arrived.size_bytes) >= LONG_BYTES


def _same(one: Arrived, other: Arrived) -> bool:
    """Whether a message is sent again: the same update, or a question that asks no more."""
    mine, theirs = one.received.message, other.received.message
    if one.peer != other.peer or type(mine) is not type(theirs):
        return False
    if isinstance(mine, Push) and isinstance(theirs, Push):
        return (mine.session, mine.step, mine.clock) == (theirs.session, theirs.step, theirs.clock)
    if isinstance(mine, Pull) and isinstance(theirs, Pull):
        alike = (mine.session, mine.part, mine.start) == (theirs.session, theirs.part, theirs.start)
        return alike and theirs.have <= mine.have and theirs.want >= mine.want
    return False


def _check_role(role: str | None, message: Message) -> None:
    """Refuse a driver's message under a worker's key (without keys, all may send it)."""
    if role == "worker" and isinstance(message, (Begin, Status, End, Leave)):
        raise RemoteProtocolError(f"a worker may not send {message.kind!r}")
