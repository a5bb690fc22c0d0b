"""The master: poll, let the state decide, act.

Owns the model while it runs, in one thread that also owns the sockets. Decisions are
`zmqdist.core.master_state`'s; what is here decodes, checks, descends, publishes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Iterable
from typing import Any, ClassVar

from zmqdist.checkpoints import Checkpoints
from zmqdist.core.actions import (
    Action,
    Admit,
    Apply,
    Dismiss,
    Flush,
    Note,
    Publish,
    Save,
    Send,
    SendSnapshot,
)
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Ack, Begun
from zmqdist.core.pacing import CURVE_BYTES_PER_S, PLAIN_BYTES_PER_S
from zmqdist.damping import RowDamping
from zmqdist.effect import Effect
from zmqdist.errors import ModelError, ProtocolError, RemoteProtocolError, UpdateError, ZmqdistError
from zmqdist.intake import Arrived, Intake
from zmqdist.merge import Mean, RowTrustRegion
from zmqdist.models.base import Parameters, parameters_of
from zmqdist.models.delta import add
from zmqdist.net.transport import MasterSockets
from zmqdist.options import Descent, MasterOptions
from zmqdist.publisher import Publisher
from zmqdist.record import begin_record
from zmqdist.weighing import Weighing
from zmqdist.wire.frames import MAX_HEADER_BYTES, Received, pack
from zmqdist.wire.plan import Look

log = logging.getLogger(__name__)

IDLE_S = 0.2
"""Longest sleep of the loop, in seconds: how soon leases and stops are noticed."""

TICK_S = 0.01
"""How often the state is told of the time at most, in seconds."""

DRAIN_S = 1.0
"""Longest run of messages handled without a look at the clock, in seconds."""

MIN_UPDATE_BYTES = 256 << 20
"""Updates may decode to this much or four times the model, whichever is more."""


class Master:
    """Applies updates to one model and publishes it.

    Binding happens in the constructor, so that a port in use is an error there.

    Parameters
    ----------
    model : object
        What `zmqdist.models.base.parameters_of` takes; changed in place.
    options : MasterOptions
        See there.

    Attributes
    ----------
    sockets_type : type of MasterSockets
        What its sockets are; `zmqdist.testing` puts some here that lose messages.
    descent : callable (model, update) or None
        None adds updates to the parameters of their name.
    error : BaseException or None
        What `descent` or the loop itself raised last.
    damping : RowDamping or None
        Weighs updates as they arrive.
    buffered : list
        Updates that wait to be merged, decoded.
    """

    sockets_type: ClassVar[type[MasterSockets]] = MasterSockets

    def __init__(self, model: Any, options: MasterOptions) -> None:
        self.model = model
        self.parameters: Parameters = parameters_of(model)
        self.descent: Descent | None = None
        self.error: BaseException | None = None
        self.options = options
        schema = self.parameters.schema()
        self._params_bytes = sum(a.nbytes for a in self.parameters.arrays().values())
        self._max_update_bytes = max(MIN_UPDATE_BYTES, 4 * self._params_bytes)
        merge = options.merge
        self.damping: RowDamping | None = None
        if isinstance(merge, RowTrustRegion) and not options.policy.buffers:
            self.damping = RowDamping(merge.cap)
        self._merge = merge or Mean()
        self._checkpoints = Checkpoints(options, self.parameters)
        try:
            self._sockets = self.sockets_type(
                options.bind_host,
                options.advertise_host,
                options.port,
                options.publish_port,
                options.keys,
                self._max_update_bytes + MAX_HEADER_BYTES,
                self._checkpoints.worker_keys(),
            )
        except BaseException:
            self._checkpoints.close()
            raise
        self.state = MasterState(
            self._checkpoints.run,
            options.policy,
            schema={name: [dtype, list(shape)] for name, (dtype, shape) in schema.items()},
            publish_port=self._sockets.publish_port,
            lease_s=options.lease_s,
            pacing=options.pacing(),
            lineage=self._checkpoints.lineage,
            saving=self._checkpoints.saving,
        )
        self._intake = Intake(
            self._sockets,
            self.state.totals,
            max_update_bytes=self._max_update_bytes,
            model_bytes=self._params_bytes,
        )
        try:
            self._check_schema()
            self.buffered: list[Any] = self._checkpoints.go_on(self)
            about = {**options.about(), "model_bytes": self._params_bytes}
            self._record = begin_record(options.record, self.state.run, about)
        except BaseException:
            self._sockets.close()
            self._checkpoints.close()
            raise
        self._publisher = Publisher(
            self.parameters,
            self.state,
            self._sockets,
            codec=options.codec,
            model_bytes=self._params_bytes,
            max_pull_bytes=self._max_update_bytes,
            link_bytes_per_s=CURVE_BYTES_PER_S if options.keys else PLAIN_BYTES_PER_S,
        )
        self._effect = Effect(self._publisher.moved)
        self._weighing = Weighing(
            self.state.policy, options.max_norm, self.damping, self.state.totals
        )
        self._tick_at = 0.0
        self._stopping, self._looked = False, threading.Event()
        self._thread: threading.Thread | None = None

    def _check_schema(self) -> None:
        """Refuse a model whose description does not fit into a header."""
        try:
            pack(Begun(self.state.run, 0, 0, self.state.schema, self.options.lease_s))
        except ProtocolError as error:
            raise ModelError(
                f"the model has {len(self.state.schema):,} arrays, too many to describe: {error}"
            ) from None

    def use(self, descent: Descent | None, train: int | None = None) -> None:
        """Set what applies the updates; it takes up its state in the checkpoint.

        Returns once the master knows what the program has done to the model meanwhile.

        Parameters
        ----------
        descent : callable or None
        train : int, optional
            Which `train()` of its program it is for: see `Checkpoints.lend`.

        Raises
        ------
        ConfigError
            The checkpoint holds the state of another kind of descent.
        """
        self._checkpoints.lend(descent, train)
        self.descent, self.error = descent, None
        self._effect = Effect(self._publisher.moved)
        self._looked.clear()
        self._sockets.wake()
        while self.alive and not self._looked.wait(IDLE_S):
            pass

    @property
    def address(self) -> str:
        """Where drivers and workers connect, ``tcp://host:port``."""
        return self._sockets.address

    def start(self) -> None:
        """Run the loop in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="zmqdist-master", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make `run` return and wait for its thread, if there is one; for signals too."""
        self._stopping = True  # an Event has a lock, which a second signal would wait for
        self._sockets.wake()
        if self._thread is not None:
            self._thread.join()

    def run(self) -> None:
        """Serve until `stop`; closes the sockets."""
        try:
            while not self._stopping:
                self._sockets.wait(self._patience_s())
                self._drain()
                if not self._looked.is_set():
                    self._look_again()
                self._checkpoints.look(self)
                self._tick(time.monotonic())
            self._checkpoints.finish(self)
        except BaseException as error:
            self.error = error
            log.exception("the master ends on an error")
            raise
        finally:
            self._checkpoints.close()
            self._sockets.close()
            self._record.close()

    @property
    def alive(self) -> bool:
        """Whether the thread of `start` still runs."""
        return self._thread is not None and self._thread.is_alive()

    # ---- the loop ----------------------------------------------------------------------

    def _patience_s(self) -> float:
        state = self.state
        if len(self._intake):
            return 0.0
        due_in_s = state.pacing.due_in_s(state.version, state.published, time.monotonic())
        return IDLE_S if due_in_s is None else min(IDLE_S, due_in_s)

    def _tick(self, now: float) -> None:
        """Do what is due by the clock."""
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            self._perform(self.state.tick(now))
            self._record.tick(now)
        elif self.state.publish_due(now):
            self._publish()
        self.state.totals.busy_s += time.monotonic() - now

    def _drain(self) -> None:
        """Handle what waits: before time passes, or live workers would look dead."""
        before = time.monotonic()
        until = before + DRAIN_S
        while before <= until and (arrived := self._intake.next()) is not None:
            self._take(arrived)
            if self.state.publish_due(time.monotonic()):
                self._publish()
            self.state.totals.busy_s += (now := time.monotonic()) - before
            before = now

    def _take(self, arrived: Arrived) -> None:
        received, message = arrived.received, arrived.received.message
        self._record.arrived(arrived.size_bytes)
        actions = self.state.receive(arrived.peer, message, time.monotonic())
        if any(map(_gets_on, actions)):
            self._intake.earn(arrived.peer)
        self._record.answered(message, actions, self.state.sessions)
        for action in actions:
            if isinstance(action, Apply):
                self._apply(action, received)
            elif isinstance(action, SendSnapshot):
                self._answer(action, received)
            else:
                self._perform([action])

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Flush():
                    self._flush(action)
                case Send():
                    self._sockets.send(action.peer, pack(action.message))
                case Publish():
                    self._publish()
                case Admit():
                    self._sockets.admit(action.key)
                case Dismiss():
                    self._sockets.dismiss(action.key)
                case Save():
                    self._checkpoints.save(self)
                case Note():
                    self._checkpoints.note(self)

    def _answer(self, action: SendSnapshot, received: Received) -> None:
        try:
            self._publisher.answer(action, received)
        except ProtocolError as error:
            self._intake.refuse(action.peer, error)

    # ---- an update ----------------------------------------------------------------------

    def _apply(self, action: Apply, received: Received) -> None:
        policy = self.state.policy
        action.session.link.told(sum(map(len, received.frames)), action.push.travel_s)
        base = self._publisher.moved_since(action.push.point) if policy.needs.base else None
        if base is None and policy.needs.base:
            answers = self.state.sent_back(action)
            self._record.answered(action.push, answers, self.state.sessions)
            self._perform(answers)
            return
        look, started = Look(), time.monotonic()
        try:
            update = received.decode(self._max_update_bytes, look)
        except RemoteProtocolError as error:
            self._intake.warn_of(str(action.key), error)
            self._perform(self.state.garbled(action, str(error)))
            return
        except ZmqdistError as error:
            self._perform(self.state.misfit(action, "update", str(error)))
            return
        self.state.totals.bytes_received_decoded += look.decoded_bytes
        self.state.totals.decode_s += time.monotonic() - started
        try:
            update = self._weighing.checked(update, finite=look.finite)
            weighed = self._weighing.weighed(update, action, base, self.state.version)
            if not policy.buffers:
                self._descend(weighed)
        except Exception as error:  # the user's code may raise anything
            self._perform(self.state.misfit(action, *self._failure(error)))
            return
        self._record.taken(action.key, update)
        now = time.monotonic()
        if policy.buffers:
            self.buffered.append(weighed)
            self._perform(self.state.buffered(action, now))
            return
        answers = self.state.applied(action, now)
        self._record.applied(action, self.state.version)
        self._perform(answers)

    def _flush(self, flush: Flush) -> None:
        """Merge what the buffer holds and apply it as one update."""
        updates, self.buffered = self.buffered, []
        try:
            self._descend(self._weighing.merged(self._merge, updates))
        except Exception as error:  # as above
            # An epoch that was closed meanwhile has no report left to say this in.
            log.error("cannot apply %d merged updates: %s", len(updates), error)
            self._perform(self.state.unflushed(flush, *self._failure(error)))
        else:
            self.state.flushed(flush)
            for action in flush.updates:
                self._record.applied(action, self.state.version)

    def _descend(self, update: Any) -> None:
        started = time.monotonic()
        if self.descent is None:
            add(self.parameters, update)
            self._publisher.touched(update, only=True)
        else:
            self._publisher.touched(update, only=False)
            self._effect.look(update, self.descent(self.model, update))
            self.parameters.arrays(), self.parameters.scalars()  # still what they were
        self.state.totals.descent_s += time.monotonic() - started

    def _failure(self, error: Exception) -> tuple[str, str, str]:
        """Return what failed, the error and its traceback."""
        if isinstance(error, UpdateError):
            return "update", str(error), ""
        self.error = error
        self.state.saving.stop("descent raised an error: the model may be half changed")
        return "descent", f"{type(error).__name__}: {error}", traceback.format_exc()

    def _look_again(self) -> None:
        with contextlib.suppress(ModelError):  # comes up again when that model is used
            self._publisher.look_again()
        self._looked.set()

    def _publish(self) -> None:
        try:
            self._publisher.publish()
        except ModelError as error:
            self._perform(self.state.fail_all("model", str(error)))


def _gets_on(action: Action) -> bool:
    """Whether this is what becomes of an update that did not come before."""
    if isinstance(action, Send):
        return isinstance(action.message, Ack) and not action.message.duplicate
    return isinstance(action, Apply)
