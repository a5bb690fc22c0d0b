"""A worker's connection whose replica is shared with the other workers of its host."""

from __future__ import annotations

import contextlib
import logging
import time

from zmqdist.assignment import Assignment
from zmqdist.connection import Connection
from zmqdist.core.lineage import Point
from zmqdist.core.messages import Version
from zmqdist.core.phases import Wait
from zmqdist.core.worker_actions import Action, Load, Renew
from zmqdist.models.base import Parameters
from zmqdist.models.snapshot import Replica
from zmqdist.sharing.replica import SharedReplica
from zmqdist.sharing.segment import Unshareable
from zmqdist.wire.frames import Received

log = logging.getLogger(__name__)

FIRST_LOOK_S, LAST_LOOK_S = 0.001, 0.02
"""Between two looks of a worker that waits, in seconds: at first, and when it takes long."""


class SharedConnection(Connection):
    """Context manager: one worker's session, with a replica that others write as well.

    Where memory cannot be shared, or a suspended process keeps it locked, the worker
    goes on with a replica of its own.
    """

    replica_type = SharedReplica

    def __init__(self, assignment: Assignment, partition: int, attempt: int, worker: str) -> None:
        super().__init__(assignment, partition, attempt, worker)
        self._look_s = FIRST_LOOK_S

    def start(self, parameters: Parameters) -> tuple[Point, int]:
        """Wait until a step may start, refresh the model, return (base, clock)."""
        with self._turn:
            self._look_s = FIRST_LOOK_S
            while True:
                self._wait_to_start()
                with contextlib.ExitStack() as stack:
                    self._keep_writers_out(stack)
                    if self._state.may_start():  # still, of the version that it holds now
                        return self._begin(parameters)

    def restore(self, parameters: Parameters) -> None:
        """Put the replica's values into the model: undo what the user's code did to it."""
        with self._turn:
            while True:
                self._wait_for(lambda: self._state.readable)
                with contextlib.ExitStack() as stack:
                    self._keep_writers_out(stack)
                    if self._state.readable:
                        return self._read_into(parameters)

    def too_stale(self) -> bool:
        """Whether the master would turn down what is computed on the model at hand."""
        with self._turn:
            self._perform(self._look())  # others may have received what says so
        return super().too_stale()

    def _keep_writers_out(self, stack: contextlib.ExitStack) -> None:
        if isinstance(self._replica, SharedReplica):
            try:
                stack.enter_context(self._replica.reading())
            except Unshareable as error:
                self._perform(self._go_alone(error))
            else:
                self._perform(self._look())

    def _wait(self, timeout_s: float, what: Wait = Wait.ACK) -> None:
        """Look at the replica now and then: who writes it cannot wake this process."""
        if isinstance(self._replica, SharedReplica):
            timeout_s = min(timeout_s, self._look_s)
            self._look_s = min(1.25 * self._look_s, LAST_LOOK_S)
        super()._wait(timeout_s, what)

    def _look(self) -> list[Action]:
        if not isinstance(self._replica, SharedReplica):
            return []
        seen = self._replica.seen()
        actions = self._state.look(seen, time.monotonic())
        if seen.elected:
            state = self._state
            asking = state.asking or state.version < 0  # or will be, once it has joined
            self._replica.tell(asking=asking, version=state.version, clock=state.fresh.clock)
        return actions

    def _act(self, action: Action, received: Received | None) -> None:
        if isinstance(action, Renew) and isinstance(self._replica, SharedReplica):
            self._replica.close()
            self._replica = self._new_replica(action.incarnation)
            if not isinstance(self._replica, SharedReplica):
                self._perform(self._state.alone(time.monotonic()))
        elif not (isinstance(action, Load) and isinstance(self._replica, SharedReplica)):
            super()._act(action, received)
        elif received is not None and isinstance(received.message, Version):
            tree = received.decode(self._replica.max_bytes)
            try:
                if action.piece:
                    self._replica.load_piece(action.version, tree)
                else:
                    self._replica.load(action.version, tree, received.message.clock)
            except Unshareable as error:
                self._perform(self._go_alone(error))
            else:
                self._perform(self._look())

    def _new_replica(self, incarnation: int = 0) -> Replica | SharedReplica:
        try:
            return SharedReplica(self.assignment.run, self.assignment.schema, incarnation)
        except Unshareable as error:
            self._log_alone(error)
            return super()._new_replica()

    def _return_all(self) -> None:
        if isinstance(self._replica, SharedReplica):
            self._replica.step_down()
        super()._return_all()

    def _go_alone(self, error: Unshareable) -> list[Action]:
        self._log_alone(error)
        self._replica.close()
        self._replica = super()._new_replica()
        return self._state.alone(time.monotonic())

    def _log_alone(self, error: Unshareable) -> None:
        level = logging.WARNING if self.assignment.replica == "shared" else logging.INFO
        log.log(level, "this worker has a replica of its own: %s", error)
