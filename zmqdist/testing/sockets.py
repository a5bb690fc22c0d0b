"""The master's sockets with faults between them and the master.

All messages of a run pass the master's sockets, of Spark tasks and of local processes
alike, encrypted or not. Here they are decrypted again and still in frames, so a fault
hits what it should hit: one message. (A proxy on the wire sees one stream of bytes per
connection, which TCP repairs and CURVE authenticates: it can cut it or slow it down,
but reorder or double nothing in it.) What the master then sees is the same as if the
fault had happened under way.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zmqdist.net.parts import Frame
from zmqdist.net.transport import Envelope, MasterSockets
from zmqdist.testing.fates import Fates, Name, truncated
from zmqdist.testing.points import Points

REORDER_S = 0.5
"""How long a message waits at most for one to overtake it, in seconds."""

DRIVERS = frozenset({"begin", "begun", "status", "report", "end"})


class FaultySockets(MasterSockets):
    """`MasterSockets` that lose, double, swap, delay and cut messages of workers.

    What drivers and the master say to each other is left alone.
    """

    fates: ClassVar[Fates]
    points: ClassVar[Points]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._partition_of: dict[bytes, int] = {}
        self._pid_of: dict[bytes, int] = {}
        self._in, self._out = _Late(), _Late()
        super().__init__(*args, **kwargs)

    def wait(self, timeout_s: float) -> None:
        """Wait as before, but not beyond what is due."""
        now = time.monotonic()
        super().wait(max(0.0, min(timeout_s, self._in.due_in_s(now), self._out.due_in_s(now))))
        self._send_due()
        self.points.wake_paused()

    def receive(self) -> Envelope | None:
        """Return the next message that arrives in spite of all."""
        while True:
            if (late := self._in.take(time.monotonic())) is not None:
                found: Envelope = late
                return found
            envelope = super().receive()
            if envelope is None:
                return None
            header = _header(envelope.frames)
            kind, peer = header.get("kind"), envelope.peer
            if kind == "hello":
                self._introduce(peer, header)
            if kind in DRIVERS or peer not in self._partition_of:
                return envelope
            if kind == "push" and peer in self._pid_of:
                self.points.strike("sent", self._pid_of[peer])

            def whole(frames: list[Frame], envelope: Envelope = envelope) -> Envelope:
                return envelope._replace(frames=frames)

            self._pass(self._in, self._name("up", peer, header), peer, envelope.frames, whole)

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """Send, perhaps; True if it was lost on purpose."""
        if peer not in self._partition_of:
            return super().send(peer, frames)

        def whole(kept: list[Frame]) -> Callable[[], object]:
            return lambda: MasterSockets.send(self, peer, kept)

        name = self._name("down", peer, _header(frames))
        self._pass(self._out, name, peer, list(frames), whole)
        self._send_due()
        return True

    def publish(self, topic: bytes, frames: Sequence[Frame]) -> None:
        """Broadcast, perhaps; a fault here hits all subscribers."""

        def whole(kept: list[Frame]) -> Callable[[], object]:
            return lambda: MasterSockets.publish(self, topic, kept)

        name = Name("out", "version", -1, _header(frames).get("version", -1))
        self._pass(self._out, name, b"", list(frames), whole)
        self._send_due()

    # ---- inside ---------------------------------------------------------------------

    def _introduce(self, peer: bytes, hello: dict[str, Any]) -> None:
        self._partition_of[peer] = hello.get("partition", -1)
        host, _, pid = str(hello.get("worker")).rpartition(":")
        if host == socket.gethostname() and pid.isdigit() and int(pid) != os.getpid():
            self._pid_of[peer] = int(pid)

    def _name(self, way: str, peer: bytes, header: dict[str, Any]) -> Name:
        step = header.get("step", header.get("version", -1))
        return Name(way, str(header.get("kind")), self._partition_of[peer], step)

    def _pass(
        self,
        late: _Late,
        name: Name,
        peer: bytes,
        frames: list[Frame],
        whole: Callable[[list[Frame]], Any],
    ) -> None:
        fate, now = self.fates.draw(name), time.monotonic()
        kept = frames if fate.cut is None else truncated(frames, fate.cut)
        for _ in range(fate.copies):
            late.put(whole(kept), peer, now, fate.delay_s, reordered=fate.reordered)

    def _send_due(self) -> None:
        while (send := self._out.take(time.monotonic())) is not None:
            send()


def _header(frames: Sequence[Frame]) -> dict[str, Any]:
    """Return the header of a message as far as it can be read."""
    try:
        header = json.loads(bytes(frames[0]))
    except (IndexError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


@dataclass
class _Entry:
    due: float
    order: int
    what: Any


class _Late:
    """Messages that wait for their time."""

    def __init__(self) -> None:
        self._waiting: list[_Entry] = []
        self._overtakable: dict[bytes, list[_Entry]] = {}
        self._order = itertools.count()

    def put(self, what: Any, peer: bytes, now: float, delay_s: float, *, reordered: bool) -> None:
        """Keep a message until its delay is over or, if reordered, the next one passed."""
        delay_s = max(delay_s, REORDER_S if reordered else 0.0)
        entry = _Entry(now + delay_s, next(self._order), what)
        self._waiting.append(entry)
        if reordered:
            self._overtakable.setdefault(peer, []).append(entry)
            return
        for overtaken in self._overtakable.pop(peer, []):
            overtaken.due, overtaken.order = entry.due, next(self._order)

    def take(self, now: float) -> Any:
        """Return the first message that is due, None if none is."""
        due = [entry for entry in self._waiting if entry.due <= now]
        if not due:
            return None
        first = min(due, key=lambda entry: (entry.due, entry.order))
        self._waiting.remove(first)
        return first.what

    def due_in_s(self, now: float) -> float:
        """Return the seconds until the first is due."""
        return min((entry.due for entry in self._waiting), default=math.inf) - now
