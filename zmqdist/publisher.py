"""The master's output: versions broadcast, and answers to pulls.

Owns the snapshot of the model, and with it the knowledge of what changed since when.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from zmqdist.coding import encode_for
from zmqdist.core.actions import SendSnapshot
from zmqdist.core.lineage import Point
from zmqdist.core.link import SMALL_BYTES, Choice, slowest
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Version
from zmqdist.errors import RemoteProtocolError
from zmqdist.models.base import Parameters
from zmqdist.models.norms import NormWatch
from zmqdist.models.snapshot import Snapshot
from zmqdist.models.versions import Moved, Versions
from zmqdist.net.transport import MasterSockets
from zmqdist.wire.codec import Memory
from zmqdist.wire.frames import Received, pack
from zmqdist.wire.rows import RowSparse
from zmqdist.wire.tree import Encoded, encode_tree

PIECE_BYTES = 4 << 20
"""Who has nothing gets a model that is larger in pieces of so many bytes."""


class Publisher:
    """Publishes one model; belongs to the master's thread.

    Parameters
    ----------
    parameters : Parameters
        The model's.
    state : MasterState
        Told of each publication.
    sockets : MasterSockets
    codec : str
        See `zmqdist.wire.codec`.
    model_bytes : int
        Size of its arrays.
    max_pull_bytes : int
        The rows that a pull names may decode to this much.
    link_bytes_per_s : float
        What the I/O thread sends.
    """

    def __init__(
        self,
        parameters: Parameters,
        state: MasterState,
        sockets: MasterSockets,
        *,
        codec: str,
        model_bytes: int,
        max_pull_bytes: int,
        link_bytes_per_s: float,
    ) -> None:
        self._norms = NormWatch(parameters)
        self._parameters = parameters
        self._state = state
        self._snapshot = self._nothing()
        self._sockets = sockets
        self._codec = codec
        self._memory = Memory()
        free = codec == "auto" and state.pacing.bytes_per_s is None
        self._choice = Choice() if free and model_bytes >= SMALL_BYTES else None
        self._max_pull_bytes = max_pull_bytes
        self._link_bytes_per_s = link_bytes_per_s
        self._answered: dict[tuple[int, int, int], tuple[Encoded, int]] = {}
        self._model_bytes = model_bytes
        self._large = self._in_pieces = model_bytes > PIECE_BYTES

    def touched(self, update: Any, *, only: bool) -> None:
        """Note that an update was applied, see `Snapshot.touched`."""
        self._snapshot.touched(update, only=only)

    def look_again(self) -> None:
        """Take in what was done to the model since its version was published, if anything.

        Workers that hold that version would not ask for it: they are to start over.
        """
        if self.moved():
            self._state.start_over()
            self._answered.clear()
            self._snapshot = self._nothing()

    def moved(self) -> bool | None:
        """Whether the model is not its version, to the bit; None if that is not published."""
        published = 0 <= self._state.version == self._state.published
        return self._snapshot.differs() if published else None

    def _nothing(self) -> Snapshot:
        versions = Versions() if self._state.policy.needs.base else None
        return Snapshot(self._parameters, versions=versions)

    def publish(self) -> None:
        """Take the snapshot and broadcast what changed: encoded once for everybody.

        Raises
        ------
        ModelError
            The model is not what it was: `descent`, or the program beside it, spoilt it.
        """
        self._state.totals.publications += 1
        started = time.monotonic()
        base, version = self._state.published, self._state.version
        self._answered.clear()
        tree = self._snapshot.take(version, len(self._state.sessions))
        if self._large and base >= 0:
            # Who gets pieces of several versions would ask for nearly all of it again.
            self._in_pieces = 2 * _bytes(tree["arrays"]) <= self._model_bytes
        self._norms.look(tree["arrays"], version)
        self._state.totals.max_row_norm = self._norms.largest
        sent_bytes = 0
        if (count := self._sockets.subscribers) and base >= 0:
            encoded = self._for_links(tree, count)
            frames = self._frames(base, encoded, receivers=count)
            self._sockets.publish(self._state.run.encode(), frames)
            sent_bytes = count * encoded.encoded_bytes
        ended = time.monotonic()
        self._state.totals.publish_s += ended - started
        self._state.was_published(started, ended + sent_bytes / self._link_bytes_per_s)

    def moved_since(self, base: Point) -> Moved | None:
        """Return how the model has moved since a version; None if that is not remembered.

        Nothing is of an earlier life, whose version of that number was another model.
        """
        versions = self._snapshot.versions
        if versions is None or base.incarnation != self._state.lineage.incarnation:
            return None
        return versions.since(base.version, self._parameters.arrays())

    def answer(self, action: SendSnapshot, received: Received) -> None:
        """Answer a pull; one of a part names the rows it wants.

        Workers that begin at the same time ask for the same, which is encoded once.

        Raises
        ------
        RemoteProtocolError
            The pull of a part does not name rows.
        """
        started = time.monotonic()
        pull, rows = action.pull, None
        if pull.part:
            rows = received.decode(self._max_pull_bytes)
            if not isinstance(rows, dict) or not all(_are_rows(r) for r in rows.values()):
                raise RemoteProtocolError("a pull of a part lacks its rows: {array: row numbers}")
        self._state.totals.pulls += 1
        base, start, end = min(pull.have, self._snapshot.version), -1, 0
        if rows is not None:
            encoded = self._encoded(self._snapshot.since(base, rows, pull.keep_bits))
        else:
            start = pull.start if base < 0 and self._in_pieces else -1
            encoded, end = self._for_all(base, pull.keep_bits, start)
        about = {"part": pull.part, "start": max(0, start), "end": end}
        self._sockets.send(action.peer, self._frames(base, encoded, **about))
        self._state.totals.publish_s += time.monotonic() - started

    def _for_all(self, base: int, keep_bits: int, start: int) -> tuple[Encoded, int]:
        """Return what changed since `base`, or a piece of all and where the next one begins."""
        asked = base, keep_bits, start
        if asked not in self._answered:
            self._answered.clear()
            if start < 0:
                tree, end = self._snapshot.since(base, None, keep_bits), 0
            else:
                tree, end = self._snapshot.piece(start, PIECE_BYTES)
            self._answered[asked] = self._encoded(tree), end
        return self._answered[asked]

    def _for_links(self, tree: dict[str, Any], receivers: int) -> Encoded:
        """Encode a broadcast, compressed unless it is there sooner if it is only copied.

        It leaves for one receiver after the other; links count as fast as the slowest.
        """
        if self._choice is None:
            return self._encoded(tree)
        speed = slowest(session.link for session in self._state.sessions)
        speed = None if speed is None else speed / receivers
        return encode_for(speed, self._choice, tree, self._memory, given=True)

    def _encoded(self, tree: dict[str, Any]) -> Encoded:
        return encode_tree(tree, self._codec, self._memory, given=True)

    def _frames(self, base: int, encoded: Encoded, receivers: int = 1, **about: int) -> list[Any]:
        state = self._state
        state.totals.bytes_published += encoded.encoded_bytes
        state.totals.bytes_published_decoded += encoded.decoded_bytes
        state.pacing.sent(receivers * encoded.encoded_bytes, time.monotonic())
        version = Version(
            state.run,
            base,
            self._snapshot.version,
            state.slowest(),
            incarnation=state.lineage.incarnation,
            **about,
        )
        return pack(version, encoded)


def _bytes(arrays: dict[str, Any]) -> int:
    return sum(p.values.nbytes if isinstance(p, RowSparse) else p.nbytes for p in arrays.values())


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind in "iu"
