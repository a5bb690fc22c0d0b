"""The master's output: versions broadcast, and answers to pulls.

Owns the snapshot of the model, and with it the knowledge of what changed since when.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from zmqdist.core.actions import SendSnapshot
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
from zmqdist.wire.tree import Encoded, encode_tree


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
    max_pull_bytes : int
        The rows that a pull names may decode to this much.
    """

    def __init__(
        self,
        parameters: Parameters,
        state: MasterState,
        sockets: MasterSockets,
        *,
        codec: str,
        max_pull_bytes: int,
    ) -> None:
        versions = Versions() if state.policy.needs.base else None
        self._snapshot = Snapshot(parameters, versions=versions)
        self._norms = NormWatch(parameters)
        self._parameters = parameters
        self._state = state
        self._sockets = sockets
        self._codec = codec
        self._memory = Memory()
        self._max_pull_bytes = max_pull_bytes
        self._answered: tuple[tuple[int, int, int], Encoded] | None = None

    def touched(self, update: Any, *, only: bool) -> None:
        """Note that an update was applied, see `Snapshot.touched`."""
        self._snapshot.touched(update, only=only)

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
        self._answered = None
        tree = self._snapshot.take(version, len(self._state.sessions))
        self._norms.look(tree["arrays"], version)
        self._state.totals.max_row_norm = self._norms.largest
        if (count := self._sockets.subscribers) and base >= 0:
            frames = self._frames(base, self._encoded(tree), receivers=count)
            self._sockets.publish(self._state.run.encode(), frames)
        ended = time.monotonic()
        self._state.totals.publish_s += ended - started
        self._state.was_published(started, ended)

    def moved_since(self, base: int) -> Moved | None:
        """Return how the model has moved since a version; None if that is not remembered."""
        versions = self._snapshot.versions
        return None if versions is None else versions.since(base, self._parameters.arrays())

    def answer(self, action: SendSnapshot, received: Received) -> None:
        """Answer a pull; one of a part names the rows it wants.

        Workers that begin at the same time ask for the same, which is encoded once.

        Raises
        ------
        RemoteProtocolError
            The pull of a part does not name rows.
        """
        started = time.monotonic()
        rows = None
        if action.part:
            rows = received.decode(self._max_pull_bytes)
            if not isinstance(rows, dict) or not all(_are_rows(r) for r in rows.values()):
                raise RemoteProtocolError("a pull of a part lacks its rows: {array: row numbers}")
        self._state.totals.pulls += 1
        base = min(action.have, self._snapshot.version)
        asked = base, self._snapshot.version, action.keep_bits
        if rows is None and self._answered is not None and self._answered[0] == asked:
            encoded = self._answered[1]
        else:
            encoded = self._encoded(self._snapshot.since(base, rows, action.keep_bits))
            if rows is None:
                self._answered = asked, encoded
        self._sockets.send(action.peer, self._frames(base, encoded, action.part))
        self._state.totals.publish_s += time.monotonic() - started

    def _encoded(self, tree: dict[str, Any]) -> Encoded:
        return encode_tree(tree, self._codec, self._memory, given=True)

    def _frames(self, base: int, encoded: Encoded, part: int = 0, receivers: int = 1) -> list[Any]:
        state = self._state
        state.totals.bytes_published += encoded.encoded_bytes
        state.totals.bytes_published_decoded += encoded.decoded_bytes
        state.pacing.sent(receivers * encoded.encoded_bytes, time.monotonic())
        version = Version(
            state.run,
            base,
            self._snapshot.version,
            state.slowest(),
            part,
            state.lineage.incarnation,
        )
        return pack(version, encoded)


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind in "iu"
