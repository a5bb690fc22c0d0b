"""One replica for all workers of a host, in memory that they share.

Whoever receives a version writes it, and whoever computes reads: many at once, but
never beside a writer. A version brings the values of rows, not differences, so writing
one twice does no harm; that is how a replica is mended whose writer died half-way. Its
words tell: the version being written is beyond the one that is held.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.core.sharing import Seen
from zmqdist.models.base import Scalar, Schema
from zmqdist.models.snapshot import MOSTLY, Replica
from zmqdist.sharing.segment import Segment, Unshareable
from zmqdist.wire.rows import RowSparse

SILENT_S = 5.0
"""Seconds without a sign of life after which a receiver counts as suspended."""

SCALARS_BYTES = 1 << 16
"""Room for the scalars, as JSON, in bytes."""

_MARK_BYTES = 32
_WORDS_BYTES = 64
_ALIGN_BYTES = 64
_VERSION, _WRITING, _CLOCK, _BEAT_NS, _ASKING, _SCALARS, _SCALARS_OF = range(7)  # words
_RECEIVER, _TURN, _ROWS = range(3)  # bytes that are locked
_STAMPS = "\0stamps"


class SharedReplica:
    """A replica that other processes of the host read and write as well.

    Used by one thread at a time.

    Parameters
    ----------
    run : str
    schema : dict of str to (dtype, shape)
    incarnation : int, default=0
        Of the run's master. Processes share that have all of these in common.

    Attributes
    ----------
    schema, arrays, max_bytes
        As those of `Replica`. Read the arrays inside `reading` only.

    Raises
    ------
    Unshareable
        There can be no shared memory here.
    """

    def __init__(self, run: str, schema: Schema, incarnation: int = 0) -> None:
        self.incarnation = incarnation
        offsets, size = _layout(schema)
        mark = hashlib.sha256(json.dumps([run, incarnation, schema]).encode()).digest()
        self._segment = Segment.join(mark.hex()[:_MARK_BYTES], size, mark)
        memory = self._segment.memory
        self._words: NDArray[np.int64] = np.frombuffer(memory, np.int64, 8, _MARK_BYTES)
        self._replica = Replica(
            schema,
            {
                name: np.frombuffer(memory, dtype, prod(shape), offsets[name]).reshape(shape)
                for name, (dtype, shape) in schema.items()
            },
        )
        self._stamps: dict[str, NDArray[np.int64]] = {
            name: np.frombuffer(memory, np.int64, _stamps(shape), offsets[name + _STAMPS])
            for name, (_, shape) in schema.items()
        }
        self._read_at = 0
        self._inside = False
        self.schema, self.arrays = schema, self._replica.arrays
        self.max_bytes = self._replica.max_bytes

    @property
    def version(self) -> int:
        """The version that it holds, -1 for none; others may change it at any time."""
        return int(self._words[_VERSION]) - 1  # fresh memory is zeros

    @property
    def scalars(self) -> dict[str, Scalar]:
        """The scalars; inside `reading` only."""
        start = _MARK_BYTES + _WORDS_BYTES
        octets = self._segment.memory[start : start + int(self._words[_SCALARS])]
        scalars: dict[str, Scalar] = json.loads(octets or b"{}")
        return scalars

    def seen(self) -> Seen:
        """Look at it, and take the receiver's place if that is free.

        The clock is read before the version, and written after it: a clock never comes
        with a version older than its own.
        """
        elected = self._segment.try_lock(_RECEIVER, exclusive=True)
        if elected:
            self._words[_BEAT_NS] = time.monotonic_ns()
        silent_s = (time.monotonic_ns() - int(self._words[_BEAT_NS])) / 1e9
        clock = int(self._words[_CLOCK])
        torn = self._unfinished() and (self._inside or self._left_unfinished())
        return Seen(
            self.version,
            clock,
            torn=torn,
            elected=elected,
            attended=silent_s < SILENT_S,
            asking=bool(self._words[_ASKING]),
        )

    def tell(self, *, asking: bool, version: int, clock: int) -> None:
        """Say as the receiver whether it asks, and the newest clock of a version it knows."""
        self._words[_ASKING] = asking
        if version == self.version:
            self._words[_CLOCK] = max(clock, int(self._words[_CLOCK]))

    def step_down(self) -> None:
        """Give up the receiver's place."""
        self._segment.unlock(_RECEIVER)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keep writers out; the arrays and scalars are those of `version`, unless torn.

        Raises
        ------
        Unshareable
            A suspended process keeps us out.
        """
        with self._locked(exclusive=False):
            yield

    def news(self) -> dict[str, NDArray[np.integer] | None]:
        """Return the rows that this process has not been told of, as `Replica.news` does.

        Inside `reading` only.
        """
        news: dict[str, NDArray[np.integer] | None] = {}
        if self._words[_VERSION] != self._read_at:
            for name, stamps in self._stamps.items():
                rows = np.flatnonzero(stamps > self._read_at)
                if len(rows):
                    few = len(rows) <= MOSTLY * len(stamps)
                    news[name] = rows if few else None  # arrays that are stamped whole: always
        self._read_at = int(self._words[_VERSION])
        return news

    def load(self, version: int, tree: dict[str, Any], clock: int = 0) -> None:
        """Take in what `Snapshot.take` or `Snapshot.since` returned.

        Its base must not be beyond the version held, or beyond the pieces that were loaded
        before there was one. Nothing happens if another process
        has written this version or a newer one, or if a writer of a newer one died, whose
        rows this one does not mend.

        Raises
        ------
        KeyError, ValueError
            As by `Replica.load`.
        Unshareable
            A suspended process keeps us out, or there are too many scalars.
        """
        self._replica.check(version, tree)
        with self._locked(exclusive=True):
            if version <= self.version or version < int(self._words[_WRITING]) - 1:
                return
            scalars = self._packed({**self.scalars, **tree["scalars"]})
            self._words[_WRITING] = version + 1
            self._replica.load(version, tree)
            for name, rows in self._replica.news().items():
                self._stamps[name][slice(None) if rows is None else rows] = version + 1
            self._put(scalars, version)
            self._words[_VERSION] = version + 1
            self._words[_CLOCK] = clock

    def load_piece(self, version: int, tree: dict[str, Any]) -> None:
        """Take in what `Snapshot.piece` returned: no version is held before the last one.

        Nothing happens if another process has brought a version meanwhile. Rows and scalars
        that another one has from a newer piece are left as they are.

        Raises
        ------
        KeyError, ValueError
            As by `Replica.load`.
        Unshareable
            As by `load`.
        """
        self._replica.check(version, tree)
        with self._locked(exclusive=True):
            if self.version >= 0:
                return
            scalars = self._packed(tree["scalars"])
            self._words[_WRITING] = max(version + 1, int(self._words[_WRITING]))
            older = {
                name: _where(part, self._stamps[name] <= version + 1)
                for name, part in tree["arrays"].items()
            }
            self._replica.load_piece(version, {"arrays": older, "scalars": {}})
            self._replica.news()  # which are not exact: of most rows they say all
            for name, part in older.items():
                rows = part.rows if isinstance(part, RowSparse) else slice(None)
                self._stamps[name][rows] = version + 1
            if tree["scalars"] and version >= self._words[_SCALARS_OF] - 1:
                self._put(scalars, version)

    def _packed(self, scalars: dict[str, Scalar]) -> bytes:
        octets = json.dumps(scalars).encode()
        if len(octets) > SCALARS_BYTES:
            raise Unshareable(f"scalars of {len(octets):,} bytes, over {SCALARS_BYTES:,}")
        return octets

    def _put(self, scalars: bytes, version: int) -> None:
        start = _MARK_BYTES + _WORDS_BYTES
        self._segment.memory[start : start + len(scalars)] = scalars
        self._words[_SCALARS], self._words[_SCALARS_OF] = len(scalars), version + 1

    def close(self) -> None:
        """Leave it to the other processes."""
        self._segment.close()

    @contextlib.contextmanager
    def _locked(self, *, exclusive: bool) -> Iterator[None]:
        """Read or write, each in turn: a writer that waits keeps new readers out."""
        lock, unlock = self._segment.lock, self._segment.unlock
        lock(_TURN, exclusive=exclusive)
        try:
            lock(_ROWS, exclusive=exclusive)
        finally:
            unlock(_TURN)
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            unlock(_ROWS)

    def _unfinished(self) -> bool:
        return bool(self._words[_WRITING] != self._words[_VERSION])

    def _left_unfinished(self) -> bool:
        """Whether nobody is at it any more who began to write."""
        if not self._segment.try_lock(_ROWS, exclusive=False):
            return False
        try:
            return self._unfinished()
        finally:
            self._segment.unlock(_ROWS)


def _where(part: Any, wanted: NDArray[np.bool_]) -> Any:
    """Return the rows of an array, or of some of its rows, that are wanted."""
    if isinstance(part, RowSparse):
        mine = wanted[part.rows]
        return part if mine.all() else RowSparse(part.rows[mine], part.values[mine], part.shape)
    if wanted.all():
        return part
    rows = np.flatnonzero(wanted)
    return RowSparse(rows, part[rows], part.shape)


def _layout(schema: Schema) -> tuple[dict[str, int], int]:
    """Return where each array and its stamps begin, and the size of the whole, in bytes."""
    offsets: dict[str, int] = {}
    size = _MARK_BYTES + _WORDS_BYTES + SCALARS_BYTES
    sizes = {
        name: np.dtype(dtype).itemsize * prod(shape) for name, (dtype, shape) in schema.items()
    }
    sizes |= {name + _STAMPS: 8 * _stamps(shape) for name, (_, shape) in schema.items()}
    for name, nbytes in sizes.items():
        offsets[name] = size = -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
        size += nbytes
    return offsets, size


def _stamps(shape: Sequence[int]) -> int:
    """How many rows are stamped apart; arrays of fewer than two dimensions are one."""
    return shape[0] if len(shape) >= 2 else 1
