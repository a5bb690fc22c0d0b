"""A worker's connection to the master, and the replica that it fills.

The user's code runs in the task's own thread. Whenever that asks for something, it serves
the sockets itself: a short step passes nothing between threads. While a step takes longer,
a second thread serves them, so that versions are decoded beside the user's code and the
master hears of the worker. Everything the two share is touched by whose `Turn` it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from zmqdist.assignment import Assignment
from zmqdist.coding import UpdateCoder
from zmqdist.core.lineage import Point
from zmqdist.core.messages import Push
from zmqdist.core.phases import Phase, Wait
from zmqdist.core.report import shortened
from zmqdist.core.spent import Spent
from zmqdist.core.worker_actions import (
    Action,
    Forget,
    Load,
    SendToMaster,
    SendUpdate,
    Subscribe,
)
from zmqdist.core.worker_state import WorkerState
from zmqdist.errors import MasterLost, MasterUnreachable, RemoteProtocolError, Stopped
from zmqdist.models.base import Parameters
from zmqdist.models.mirror import Mirror
from zmqdist.models.snapshot import Replica
from zmqdist.net.transport import ClientSockets
from zmqdist.outgoing import Outgoing
from zmqdist.sharing.replica import SharedReplica
from zmqdist.shelf import Shelf
from zmqdist.turn import Turn
from zmqdist.wire.frames import Received, pack, unpack

POLL_S = 0.2
"""Longest sleep at the sockets, in seconds."""

TICK_S = 0.01
"""How often the state is told of the time at most, in seconds."""

GOODBYE_S = 2.0
"""How long a failing worker waits for its report to be taken, in seconds."""


class Connection:
    """Context manager: one worker's session for one partition.

    Parameters
    ----------
    assignment : Assignment
    partition, attempt : int
        Which partition, and which attempt at it (unique within the run).
    worker : str
        Name for people.

    Raises
    ------
    MasterUnreachable
        On entry, when the handshake gets no answer in time.
    """

    def __init__(self, assignment: Assignment, partition: int, attempt: int, worker: str) -> None:
        self.assignment = assignment
        self._replica = self._borrow_replica()
        self._outgoing = Outgoing(self._borrow_coder())
        self._mirror: Mirror | None = None
        self._error: BaseException | None = None
        self._spent = Spent(time.monotonic(), self._outgoing.coder.take_travel_s)
        self._tick_at = 0.0
        self._state = WorkerState(
            run=assignment.run,
            epoch=assignment.epoch,
            partition=partition,
            attempt=attempt,
            worker=worker,
            max_in_flight=assignment.max_in_flight,
            have=Point(self._replica.incarnation, self._replica.version),
            in_place=assignment.tiers is not None,
            keep_bits=(assignment.tiers and assignment.tiers.read_bits) or 0,
            shared=not isinstance(self._replica, Replica),
            now=time.monotonic(),
        )
        self._sockets = ClientSockets(assignment.address, assignment.keys)
        self._turn = Turn(self._sockets.wake, self.away_s)
        self._thread = threading.Thread(target=self._stand_in, name="zmqdist-worker", daemon=True)

    def __enter__(self) -> Connection:
        self._thread.start()
        try:
            self._shake_hands()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._turn.end()
        self._thread.join()
        self._sockets.close()
        self._return_all()

    # ---- asked by the task ---------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether another attempt has completed the whole partition."""
        return self._state.complete

    @property
    def passes(self) -> float:
        """How often the data had been gone through when this partition was first begun."""
        return self._state.hello.passes or 0.0

    def settled(self, step: int) -> bool:
        """Whether the ledger had settled `step` when the session began."""
        return self._state.settled(step)

    def start(self, parameters: Parameters) -> tuple[Point, int]:
        """Wait until a step may start, refresh the model, return (base, clock)."""
        with self._turn:
            self._wait_to_start()
            return self._begin(parameters)

    def cancel(self) -> None:
        """Undo the last `start`, of which nothing is sent: the gate counts what is answered."""
        with self._turn:
            self._state.cancel()

    def restore(self, parameters: Parameters) -> None:
        """Put the replica's values into the model: undo what the user's code did to it."""
        with self._turn:
            self._wait_for(lambda: self._state.readable)
            self._read_into(parameters)

    def too_stale(self) -> bool:
        """Whether the master would turn down what is computed on the model at hand."""
        return self._state.fresh.too_stale  # which somebody serves, if the step takes long

    def push(self, push: Push, update: Any) -> None:
        """Send the update of a started step; None sends its header only."""
        started = time.monotonic()
        encoded = None if update is None else self._outgoing.encode(push.step, update)
        encode_s = time.monotonic() - started
        with self._turn:
            self._raise_if_over()
            if encoded is not None:
                self._outgoing.keep(push.step, encoded)
            now = time.monotonic()
            times = self._spent.take(now, push.compute_s, encode_s)
            self._perform(self._state.push(push, now, **times))

    def take_requeued(self) -> int | None:
        """Return a step that has to be computed again, None if there is none."""
        self._raise_if_over()
        if not self._state.requeued:
            return None
        with self._turn:
            return self._state.requeued.pop(0)

    def wait_for_acks(self) -> None:
        """Wait until each update is acknowledged or at least one is requeued."""
        with self._turn:
            self._wait_for(self._state.answered, Wait.ACK)

    def in_flight(self) -> frozenset[int]:
        """Return the steps that may still come back as requeued."""
        with self._turn:
            return frozenset([*self._state.unacknowledged, *self._state.requeued])

    def finish(self, steps: int) -> bool:
        """Say that the partition ended; return whether the ledger agrees."""
        with self._turn:
            now = time.monotonic()
            self._perform(self._state.finish(steps, now, **self._spent.take(now, 0.0, 0.0)))
            self._wait_for(lambda: self._state.phase is Phase.FINISHED, Wait.ACK)
            return self._state.complete

    def fail(self, step: int, what: str, error: str, traceback: str) -> None:
        """Report that the task cannot go on; waits a moment for the report to leave."""
        with self._turn:
            if self._state.phase is Phase.ACTIVE:
                heard, until = self._state.last_heard, time.monotonic() + GOODBYE_S
                self._perform(self._state.fail(step, what, shortened(error), shortened(traceback)))
                while self._state.last_heard == heard and time.monotonic() < until:
                    self._sockets.wait(POLL_S)
                    self._serve()

    def _begin(self, parameters: Parameters) -> tuple[Point, int]:
        clock, read = self._state.start()
        if read:
            self._read_into(parameters)
        return self._state.base, clock

    # ---- waiting ------------------------------------------------------------------------------

    def _wait_to_start(self) -> None:
        self._serve()
        while (what := self._state.waits_for()) is not None:
            self._perform(self._state.want(time.monotonic()))
            self._wait(POLL_S, what)

    def _wait_for(self, arrived: Callable[[], bool], what: Wait = Wait.MODEL) -> None:
        while not arrived():
            self._wait(POLL_S, what)

    def _wait(self, timeout_s: float, what: Wait = Wait.ACK) -> None:
        """Wait for something to come and take it in; raise if the session is over."""
        self._raise_if_over()
        started = time.monotonic()
        self._sockets.wait(timeout_s)
        self._spent.waited(what, time.monotonic() - started)
        self._serve()
        self._raise_if_over()

    def _raise_if_over(self) -> None:
        if self._error is not None:
            raise self._error
        if self._state.refusals:
            raise RemoteProtocolError(f"the master refused a message: {self._state.refusals[-1]}")
        if self._state.phase is Phase.STOPPED:
            raise Stopped(self._state.reason)
        if self._state.phase is Phase.LOST:
            raise MasterLost(
                f"the master at {self.assignment.address} has been silent for "
                f"{self._state.lease_s:.0f} s: it ended, hangs, or the network is cut. If "
                "descent() takes that long, raise lease_s="
            )

    def _shake_hands(self) -> None:
        until = time.monotonic() + self.assignment.connect_s
        with self._turn:
            self._serve()
            while not self._state.session:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise MasterUnreachable(
                        f"no answer from the master at {self.assignment.address} within "
                        f"{self.assignment.connect_s:.0f} s: {self._sockets.stage()}. "
                        f"{self.assignment.where}"
                    )
                self._wait(min(left_s, POLL_S))
            self._spent.restart(time.monotonic())

    # ---- serving the sockets ------------------------------------------------------------------

    def _stand_in(self) -> None:
        """Serve the sockets while the task's thread is away, in a thread of its own."""
        while self._turn.stand_in():
            try:
                while not self._turn.wanted:
                    self._serve()
                    self._sockets.wait(POLL_S)
            except BaseException as error:
                self._error = error
                return
            finally:
                self._turn.give_back()

    def _serve(self) -> None:
        """Take in what came, and let time pass."""
        while (frames := self._sockets.receive()) is not None:
            received = unpack(frames)
            del frames  # while it is decoded its memory is given back
            self._perform(self._look())
            actions = self._state.receive(received.message, time.monotonic())
            self._perform(actions, received)
        self._perform(self._look())
        if (now := time.monotonic()) >= self._tick_at:
            self._tick_at = now + TICK_S
            self._perform(self._state.tick(now))

    def _look(self) -> list[Action]:
        """Take in what others may have done to the replica: nothing, here."""
        return []

    def _perform(self, actions: Iterable[Action], received: Received | None = None) -> None:
        for action in actions:
            self._act(action, received)

    def _act(self, action: Action, received: Received | None) -> None:
        match action:
            case SendToMaster():
                self._sockets.send(pack(action.message))
            case SendUpdate() if self._state.awaits(action.push):
                self._sockets.send(self._outgoing.frames(action.push))
            case Forget():
                self._outgoing.forget(action.step, applied=action.applied)
            case Load() if received is not None:
                load = self._replica.load_piece if action.piece else self._replica.load
                load(action.version, received.decode(self._replica.max_bytes))
                self._replica.incarnation = self._state.fresh.incarnation
            case Subscribe():
                self._sockets.subscribe(action.port, self.assignment.run.encode())

    def _read_into(self, parameters: Parameters) -> None:
        if self._mirror is None or self._mirror.parameters is not parameters:
            self._mirror = Mirror(parameters)
        self._mirror.read(self._replica)

    # ---- kept between partitions ----------------------------------------------------------------

    replica_type: type[Replica] | type[SharedReplica] = Replica
    away_s: float | None = None

    def _new_replica(self) -> Replica | SharedReplica:
        return Replica(self.assignment.schema)

    def _borrow_replica(self) -> Replica | SharedReplica:
        """Take the replica that an earlier partition in this process left, or a new one.

        Spark runs many tasks in one Python worker; the next one pulls only what changed.
        """
        kept = _replicas.take(self.assignment.run)
        if kept is not None:
            # A copy that was trained in place holds rounded values: it is no replica of a version.
            if type(kept) is self.replica_type and kept.schema == self.assignment.schema:
                return kept
            kept.close()
        return self._new_replica()

    def _borrow_coder(self) -> UpdateCoder:
        kept = _coders.take(self.assignment.run)
        codec, tiers = self.assignment.codec, self.assignment.tiers is not None
        alike = kept is not None and (kept.codec, kept.tiers) == (codec, tiers)
        return kept if kept is not None and alike else UpdateCoder(codec, tiers=tiers)

    def _return_all(self) -> None:
        self._outgoing.coder.close()
        _coders.put(self.assignment.run, self._outgoing.coder)
        _replicas.put(self.assignment.run, self._replica)


_replicas: Shelf[Replica | SharedReplica] = Shelf()
_coders: Shelf[UpdateCoder] = Shelf()
