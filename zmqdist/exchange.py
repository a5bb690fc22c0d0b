"""A worker's connection while it trains in place: it asks for rows, part by part."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

from numpy.typing import NDArray

from zmqdist.assignment import Assignment
from zmqdist.connection import Connection
from zmqdist.core.lineage import Point
from zmqdist.core.worker_actions import Action, Forget, Load, SendPull
from zmqdist.models.base import Parameters
from zmqdist.models.snapshot import Replica
from zmqdist.models.tiers import Tiers
from zmqdist.wire.frames import Received, pack
from zmqdist.wire.tree import Encoded, encode_tree

Answer = tuple[int, Any, frozenset[int]]
"""Version, values, and the steps that they hold and earlier answers do not."""


class Copy(Replica):
    """What a worker that trains in place knows of the master's model.

    Attributes
    ----------
    epoch : int
        Of the partition before.
    began : int
        The master's version when that one began.
    chunks : float
        What each worker had trained then, since this one first had a copy, in chunks.
    per_chunk : float
        Versions that came, meanwhile, for each chunk that this worker trained.
    tiers : Tiers or None
        What the parts were, and `parts` the versions of these, see `zmqdist.core.parts`.
    """

    epoch = -1
    began = 0
    chunks = 0.0
    per_chunk = 1.0
    tiers: Tiers | None = None
    parts: Mapping[int, int] = {}


class InPlaceConnection(Connection):
    """Context manager: one worker's session for a partition that it trains in place.

    Between `begin` and `end` the copy of the master's model belongs to the caller, and
    what the master sends is handed out by `answers`.
    """

    replica_type = Copy
    away_s = 0.25  # nothing comes that was not asked for, so that no version is decoded meanwhile

    def __init__(self, assignment: Assignment, partition: int, attempt: int, worker: str) -> None:
        super().__init__(assignment, partition, attempt, worker)
        self._own = cast(Copy, self._replica)  # never a shared one
        self._parts: dict[int, Encoded] = {}
        self._answers: list[Answer] = []
        self._answered: set[int] = set()
        self._training = False
        self._began, self._chunks = 0, 0.0
        if self._own.version >= 0 and self._own.tiers == assignment.tiers:
            self._state.parts.go_on(self._own.parts)

    def missed(self) -> tuple[float, float] | None:
        """Return what the copy lacks of others' work: from when until when, in chunks.

        None for all of it: there is no copy yet, or the policy would send back what is based
        on an old one, or an epoch begins. In a short text the seldom rows would not be read
        for several passes, in which each worker learns them anew, and all of it is added up.
        """
        own, fresh = self._own, self._state.fresh
        first = own.epoch != self.assignment.epoch
        if self._state.version < 0 or fresh.patience is not None or first:
            return None
        return own.chunks, own.chunks + max(0, fresh.newest - own.began) / own.per_chunk

    def begin(self, parameters: Parameters, *, newest: bool) -> dict[str, NDArray[Any]]:
        """Load this worker's copy of the model into it; return the arrays of the copy.

        From here on the copy belongs to the caller, and answers go to `answers`. It
        holds what the worker knows of the master's model when `end` is called,
        so that the next partition asks for what changed only.

        Parameters
        ----------
        parameters : Parameters
        newest : bool
            Wait for all that changed; else for nothing, unless there is no copy yet.
        """
        with self._turn:
            missed = self.missed()
            self._began, self._chunks = self._state.fresh.newest, missed[1] if missed else 0.0
            if newest:
                self._perform(self._state.ask(0, time.monotonic()))
            self._wait_for(lambda: self._state.version >= 0 and not self._state.asking)
            self._read_into(parameters)
            self._training, self._own.version = True, -1
            return self._own.arrays

    def end(self, chunks: int) -> None:
        """Give the copy back, after so many chunks, when all updates are acknowledged.

        It holds the version that `held` says of the whole model, and rows that are newer.
        """
        with self._turn:
            for answer in self._answers:  # came after the last look, and holds all updates
                self._own.load(*answer[:2])
            own, fresh = self._own, self._state.fresh
            own.version, own.incarnation = self._state.version, fresh.incarnation
            own.tiers, own.parts = self.assignment.tiers, self._state.parts.versions
            own.epoch = self.assignment.epoch
            own.began = min(self._began, fresh.newest)  # a master's later life may be younger
            own.chunks = self._chunks
            own.per_chunk = max(1.0, (fresh.newest - own.began) / chunks)

    def next_chunk(self) -> int:
        """Wait until a step may start that goes on with the model at hand; return its clock."""
        with self._turn:
            self._wait_to_start()
            return self._state.start()[0]

    def ask(self, part: int, rows: dict[str, Any] | None = None) -> None:
        """Ask for the newest values of a part (0: all); its rows count the first time."""
        with self._turn:
            self._raise_if_over()
            if part and part not in self._parts:
                self._parts[part] = encode_tree(rows)
            self._perform(self._state.ask(part, time.monotonic()))

    def wait_for_answer(self, part: int) -> None:
        """Wait until no answer about this part is under way."""
        with self._turn:
            self._wait_for(lambda: not self._state.parts.pending(part))

    def answers(self) -> list[Answer]:
        """Return what came since the last call.

        The master answers in order: what it acknowledged before is in, the rest is not.
        """
        with self._turn:
            self._serve()
            self._raise_if_over()
            answers, self._answers = self._answers, []
            return answers

    def held(self, part: int) -> Point:
        """Return the version of a part that the model has been given."""
        return self._state.parts.given(part, self._state.fresh.replica)

    def _new_replica(self) -> Copy:
        return Copy(self.assignment.schema)

    def _act(self, action: Action, received: Received | None) -> None:
        match action:
            case SendPull():
                self._sockets.send(pack(action.pull, self._parts[action.pull.part]))
            case Load() if received is not None and self._training:
                held, self._answered = frozenset(self._answered), set()
                tree = received.decode(self._replica.max_bytes)
                self._answers.append((action.version, tree, held))
            case Forget():
                super()._act(action, received)
                if action.step not in self._state.requeued:
                    self._answered.add(action.step)
            case _:
                super()._act(action, received)
